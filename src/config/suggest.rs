//! "Did you mean": the known word closest to a mistyped one. [pure]

/// The word of `known` that `given` was probably meant to be.
pub(super) fn closest<'k>(given: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // A third of the letters, at least one: "pot" is no mistyped "id".
    let far = (given.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|word| (distance(&plain(given), &plain(word)), word))
        .filter(|(distance, _)| *distance <= far)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Capitals and the choice between `-` and `_` are never what was meant to differ.
fn plain(word: &str) -> Vec<char> {
    word.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

/// Edits (insert, remove, replace, swap of neighbours) from `a` to `b`: optimal string alignment.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = last;
        last = row;
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_a_different_word_is_not() {
        let known = ["listen", "max_body", "max_batch", "id"];
        assert_eq!(closest("listne", known), Some("listen"));
        assert_eq!(closest("max-body", known), Some("max_body"));
        assert_eq!(closest("MaxBody", known), Some("max_body"));
        assert_eq!(closest("port", known), None);
        assert_eq!(closest("pot", known), None);
        assert_eq!(closest("", known), None);
    }
}
