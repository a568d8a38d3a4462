//! ONNX models through tract. Nothing of them but the output that is wanted is run, and nothing beside the file is read.

use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::Factoid;

use super::engine::{Engine, Shape};

type Plan = TypedRunnableModel<TypedModel>;

/// A model, for any number of rows at once where it allows that, else for one.
struct Onnx {
    plan: Plan,
    columns: usize,
    column: Option<usize>,
    /// One row at a time: the model has a fixed first dimension, or something in it cannot be made for any number.
    single: bool,
}

/// Loads the model in `bytes`. It must have one input of rows with the columns of `shape`.
pub fn open(bytes: &[u8], shape: &Shape) -> Result<Box<dyn Engine>, String> {
    // Weights in files beside the model are not read: there is no path that they could be relative to.
    let parsed = tract_onnx::onnx().model_for_read(&mut &*bytes).map_err(|e| said(&e))?;
    let (inputs, outputs) = (parsed.inputs.len(), parsed.outputs.len());
    if inputs != 1 {
        return Err(format!("the model has {inputs} inputs; one that takes all fields as columns is needed"));
    }
    if outputs == 0 {
        return Err("the model has no output".to_owned());
    }
    let declared =
        parsed.input_fact(0).map_err(|e| said(&e))?.shape.dims().map(|dim| dim.concretize()).collect::<Vec<_>>();
    let fixed = fixed_rows(&declared, shape.columns)?;
    let many = if fixed { None } else { prepare(parsed.clone(), shape, true).ok() };
    let single = many.is_none();
    let plan = match many {
        Some(plan) => plan,
        None => prepare(parsed, shape, false)?,
    };
    Ok(Box::new(Onnx { plan, columns: shape.columns, column: shape.column, single }))
}

/// Whether the model takes one row at a time; that its declared input, as far as it says, is what the fields make.
fn fixed_rows(declared: &[Option<TDim>], columns: usize) -> Result<bool, String> {
    let known: Vec<Option<i64>> = declared.iter().map(|dim| dim.as_ref().and_then(|dim| dim.to_i64().ok())).collect();
    match known[..] {
        [] => Ok(false),
        [rows, width] => {
            if let Some(width) = width.filter(|width| usize::try_from(*width) != Ok(columns)) {
                return Err(format!("the model's input has {width} columns and inference.fields {columns}"));
            }
            match rows {
                None => Ok(false),
                Some(1) => Ok(true),
                Some(rows) => Err(format!("the model takes {rows} rows at once; export it for one, or for any number")),
            }
        }
        _ => Err(format!("the model's input has {} dimensions; two are needed, rows and columns", known.len())),
    }
}

fn prepare(mut model: InferenceModel, shape: &Shape, many: bool) -> Result<Plan, String> {
    match &shape.output {
        Some(name) => model.set_output_names([name]).map_err(|e| said(&e))?,
        None => {
            let last = model.outputs.last().copied().ok_or("the model has no output")?;
            model.set_output_outlets(&[last]).map_err(|e| said(&e))?;
        }
    }
    let rows = if many { model.symbols.sym("N").to_dim() } else { 1.to_dim() };
    let input = InferenceFact::dt_shape(f32::datum_type(), [rows, shape.columns.to_dim()]);
    model
        .with_input_fact(0, input)
        .and_then(|m| m.into_optimized())
        .and_then(|m| m.into_runnable())
        .map_err(|e| said(&e))
}

impl Engine for Onnx {
    fn run(&mut self, rows: &[f32], count: usize) -> Result<Vec<f32>, String> {
        if rows.len() != count * self.columns {
            return Err("the rows are not as wide as the model's input".to_owned());
        }
        if !self.single {
            return self.some(rows, count);
        }
        let mut scores = Vec::with_capacity(count);
        for row in rows.chunks(self.columns) {
            scores.extend(self.some(row, 1)?);
        }
        Ok(scores)
    }
}

impl Onnx {
    fn some(&self, rows: &[f32], count: usize) -> Result<Vec<f32>, String> {
        let input = Tensor::from_shape(&[count, self.columns], rows).map_err(|e| said(&e))?;
        let output = self.plan.run(tvec!(input.into_tvalue())).map_err(|e| said(&e))?;
        let output = output.first().ok_or("the model gave no output")?;
        let output = output.cast_to::<f32>().map_err(|e| said(&e))?;
        let numbers = output.as_slice::<f32>().map_err(|e| said(&e))?;
        let width = match output.shape() {
            [rows] if *rows == count => 1,
            [rows, width] if *rows == count && *width > 0 => *width,
            shape => return Err(format!("the output has the shape {shape:?}, for {count} rows")),
        };
        let column = self.column.unwrap_or(width - 1);
        if column >= width {
            return Err(format!("the output has {width} columns, and inference.column is {column}"));
        }
        Ok(numbers.iter().skip(column).step_by(width).copied().collect())
    }
}

/// What was wrong, in one line with its causes, bounded.
fn said(e: &TractError) -> String {
    const CHARACTERS_MAX: usize = 400;
    format!("{e:#}").replace('\n', " ").chars().take(CHARACTERS_MAX).collect()
}
