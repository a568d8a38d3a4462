//! A disk in memory that forgets: what was not synced is there or not after a power cut, in any part and any order.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::models::store::Disk;

/// Something that was asked of the disk and is not durable yet.
#[derive(Clone, Debug)]
enum Write {
    Bytes(u64, Vec<u8>),
    Length(u64),
}

#[derive(Clone, Debug)]
enum Entry {
    Put(String, usize),
    Gone(String),
    Renamed(String, String),
}

#[derive(Clone, Debug)]
enum Node {
    File { now: Vec<u8>, durable: Vec<u8>, pending: Vec<Write>, since_ms: i64 },
    Dir { now: BTreeMap<String, usize>, durable: BTreeMap<String, usize>, pending: Vec<Entry> },
    Link(String),
}

/// What goes wrong, at the n-th change from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Everything stops: the process is killed, or the power goes.
    Stop,
    /// This one change is refused. A sync that is refused forgets what it should have written, and readers still see it.
    Refuse,
}

/// A mistake that is planted: the calls that do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    Nothing,
    NoSync,
    NoDirSync,
    NoForget,
}

#[derive(Default)]
struct State {
    planted: Option<Planted>,
    nodes: Vec<Node>,
    fault: Option<(u64, Fault)>,
    stopped: bool,
    changes: u64,
    refused_sync: bool,
}

/// A disk in memory.
#[derive(Clone, Default)]
pub struct Sim(Arc<Mutex<State>>);

impl Sim {
    pub fn new() -> Self {
        let sim = Self::default();
        sim.lock().nodes.push(empty_dir());
        sim
    }

    pub fn plant(&self, planted: Planted) {
        self.lock().planted = Some(planted);
    }

    /// After `changes` more changes.
    pub fn fail(&self, changes: u64, fault: Fault) {
        let mut state = self.lock();
        state.fault = Some((state.changes + changes, fault));
    }

    /// The fault was met.
    pub fn has_failed(&self) -> bool {
        self.lock().fault.is_none()
    }

    /// A sync of a file was refused since this was last asked.
    pub fn has_refused_a_sync(&self) -> bool {
        std::mem::take(&mut self.lock().refused_sync)
    }

    /// The machine runs again. After a power cut, what was not durable is there as `luck` has it.
    pub fn start(&self, power_cut: bool, luck: &mut dyn FnMut() -> u64) {
        let mut state = self.lock();
        (state.fault, state.stopped) = (None, false);
        if power_cut {
            state.nodes.iter_mut().for_each(|node| cut(node, luck));
        }
    }

    /// Bytes that all files have that can be reached.
    pub fn bytes(&self) -> u64 {
        let state = self.lock();
        let (mut bytes, mut open) = (0, vec![0]);
        while let Some(node) = open.pop() {
            match &state.nodes[node] {
                Node::File { now, .. } => bytes += now.len() as u64,
                Node::Dir { now, .. } => open.extend(now.values()),
                Node::Link(_) => {}
            }
        }
        bytes
    }

    /// Flips a bit where it lies on the disk, as a dying disk does.
    pub fn damage(&self, path: &Path, at: usize) {
        let mut state = self.lock();
        let node = find(&state, path).unwrap();
        let Node::File { now, durable, .. } = &mut state.nodes[node] else { panic!("a file") };
        for bytes in [now, durable] {
            let at = at % bytes.len().max(1);
            bytes[at] ^= 4;
        }
    }

    /// A file's bytes, following links, as any program would.
    pub fn look(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.lock();
        let Node::File { now, .. } = &state.nodes[find(&state, path)?] else {
            return Err(ErrorKind::IsADirectory.into());
        };
        Ok(now.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The state, for one more change.
    fn change(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        if state.stopped {
            return Err(io::Error::other("the machine has stopped"));
        }
        state.changes += 1;
        if let Some((_, fault)) = state.fault.filter(|(at, _)| state.changes > *at) {
            state.fault = None;
            state.stopped = fault == Fault::Stop;
            return Err(io::Error::other(format!("the test's {fault:?}")));
        }
        Ok(state)
    }

    fn change_dir(&self, path: &Path, entry: impl FnOnce(&mut State, &str) -> io::Result<Entry>) -> io::Result<()> {
        let mut state = self.change()?;
        let name = name(path);
        let entry = entry(&mut state, &name)?;
        let parent = find(&state, path.parent().unwrap())?;
        let Node::Dir { now, pending, .. } = &mut state.nodes[parent] else {
            return Err(ErrorKind::NotADirectory.into());
        };
        apply_entry(now, &entry);
        pending.push(entry);
        Ok(())
    }
}

fn empty_dir() -> Node {
    Node::Dir { now: BTreeMap::new(), durable: BTreeMap::new(), pending: Vec::new() }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// The node of a path. Links are followed, but for the last part of it.
fn find_last(state: &State, path: &Path) -> io::Result<usize> {
    let mut at = 0;
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    let mut parent = 0;
    for part in parts {
        if let Node::Link(target) = &state.nodes[at] {
            at = child(state, parent, target)?;
        }
        (parent, at) = (at, child(state, at, part)?);
    }
    Ok(at)
}

fn find(state: &State, path: &Path) -> io::Result<usize> {
    let found = find_last(state, path)?;
    match &state.nodes[found] {
        Node::Link(_) => Err(ErrorKind::NotFound.into()),
        _ => Ok(found),
    }
}

fn child(state: &State, dir: usize, name: &str) -> io::Result<usize> {
    match &state.nodes[dir] {
        Node::Dir { now, .. } => now.get(name).copied().ok_or(ErrorKind::NotFound.into()),
        _ => Err(ErrorKind::NotADirectory.into()),
    }
}

fn apply_entry(names: &mut BTreeMap<String, usize>, entry: &Entry) {
    match entry {
        Entry::Put(name, node) => drop(names.insert(name.clone(), *node)),
        Entry::Gone(name) => drop(names.remove(name)),
        Entry::Renamed(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
    }
}

fn apply_write(bytes: &mut Vec<u8>, write: &Write) {
    match write {
        Write::Length(length) => bytes.resize(*length as usize, 0),
        Write::Bytes(offset, new) => {
            let end = *offset as usize + new.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*offset as usize..end].copy_from_slice(new);
        }
    }
}

/// What a power cut leaves.
fn cut(node: &mut Node, luck: &mut dyn FnMut() -> u64) {
    match node {
        Node::File { now, durable, pending, .. } => {
            if !luck().is_multiple_of(4) {
                // In any order, each whole, torn or not at all.
                let mut writes = std::mem::take(pending);
                while !writes.is_empty() {
                    let mut write = writes.remove(luck() as usize % writes.len());
                    let kept = luck();
                    if let Write::Bytes(_, bytes) = &mut write
                        && kept.is_multiple_of(3)
                    {
                        bytes.truncate(luck() as usize % (bytes.len() + 1));
                    }
                    if kept % 3 < 2 {
                        apply_write(durable, &write);
                    }
                }
            }
            pending.clear();
            now.clone_from(durable);
        }
        Node::Dir { now, durable, pending } => {
            let all = luck() % 3;
            for entry in std::mem::take(pending) {
                if all == 0 || (all == 1 && luck().is_multiple_of(2)) {
                    apply_entry(durable, &entry);
                }
            }
            now.clone_from(durable);
        }
        Node::Link(_) => {}
    }
}

impl Disk for Sim {
    type File = usize;

    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.lock();
        match &state.nodes[find(&state, dir)?] {
            Node::Dir { now, .. } => Ok(now.keys().cloned().collect()),
            _ => Err(ErrorKind::NotADirectory.into()),
        }
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if self.names(dir).is_ok() {
            return Ok(());
        }
        self.change_dir(dir, |state, name| {
            state.nodes.push(empty_dir());
            Ok(Entry::Put(name.to_owned(), state.nodes.len() - 1))
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.change()?;
        if state.planted == Some(Planted::NoDirSync) {
            return Ok(());
        }
        let node = find(&state, dir)?;
        let Node::Dir { durable, pending, .. } = &mut state.nodes[node] else {
            return Err(ErrorKind::NotADirectory.into());
        };
        std::mem::take(pending).iter().for_each(|entry| apply_entry(durable, entry));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        assert_eq!(from.parent(), to.parent(), "names move within a directory only");
        self.change_dir(to, |state, name| {
            let node = find_last(state, from)?;
            if let (Node::Dir { .. }, Ok(there)) = (&state.nodes[node], find(state, to))
                && let Node::Dir { now, .. } = &state.nodes[there]
                && !now.is_empty()
            {
                return Err(ErrorKind::DirectoryNotEmpty.into());
            }
            Ok(Entry::Renamed(self::name(from), name.to_owned()))
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.change_dir(path, |state, name| {
            find_last(state, path)?;
            Ok(Entry::Gone(name.to_owned()))
        })
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.change_dir(dir, |state, name| match &state.nodes[find(state, dir)?] {
            Node::Dir { now, .. } if now.is_empty() => Ok(Entry::Gone(name.to_owned())),
            _ => Err(ErrorKind::DirectoryNotEmpty.into()),
        })
    }

    fn symlink(&self, target: &str, link: &Path) -> io::Result<()> {
        self.change_dir(link, |state, name| {
            if find_last(state, link).is_ok() {
                return Err(ErrorKind::AlreadyExists.into());
            }
            state.nodes.push(Node::Link(target.to_owned()));
            Ok(Entry::Put(name.to_owned(), state.nodes.len() - 1))
        })
    }

    fn read_link(&self, link: &Path) -> io::Result<String> {
        let state = self.lock();
        match &state.nodes[find_last(&state, link)?] {
            Node::Link(target) => Ok(target.clone()),
            _ => Err(ErrorKind::InvalidInput.into()),
        }
    }

    fn create(&self, path: &Path) -> io::Result<usize> {
        let mut made = 0;
        self.change_dir(path, |state, name| {
            // A new file in place of the old one: at once, as the worst order of truncating and naming.
            let since_ms = state.changes as i64;
            state.nodes.push(Node::File { now: Vec::new(), durable: Vec::new(), pending: Vec::new(), since_ms });
            made = state.nodes.len() - 1;
            Ok(Entry::Put(name.to_owned(), made))
        })?;
        Ok(made)
    }

    fn open(&self, path: &Path) -> io::Result<usize> {
        let state = self.lock();
        find(&state, path)
    }

    fn open_to_write(&self, path: &Path) -> io::Result<usize> {
        self.open(path)
    }

    fn length(&self, file: &usize) -> io::Result<u64> {
        match &self.lock().nodes[*file] {
            Node::File { now, .. } => Ok(now.len() as u64),
            _ => Ok(0),
        }
    }

    fn allocate(&self, file: &usize, bytes: u64) -> io::Result<()> {
        self.write(*file, Write::Length(bytes))
    }

    fn read_at(&self, file: &usize, offset: u64, to: &mut [u8]) -> io::Result<()> {
        let state = self.lock();
        let Node::File { now, .. } = &state.nodes[*file] else { return Err(ErrorKind::IsADirectory.into()) };
        let from = now.get(offset as usize..).and_then(|rest| rest.get(..to.len()));
        to.copy_from_slice(from.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, file: &usize, offset: u64, from: &[u8]) -> io::Result<()> {
        self.write(*file, Write::Bytes(offset, from.to_vec()))
    }

    fn sync(&self, file: &usize) -> io::Result<()> {
        let mut state = match self.change() {
            Ok(state) if state.planted == Some(Planted::NoSync) => return Ok(()),
            Ok(state) => state,
            Err(e) => {
                let mut state = self.lock();
                if !state.stopped {
                    state.refused_sync = true;
                    let Node::File { pending, .. } = &mut state.nodes[*file] else { return Err(e) };
                    pending.clear();
                }
                return Err(e);
            }
        };
        let Node::File { durable, pending, .. } = &mut state.nodes[*file] else {
            return Err(ErrorKind::InvalidInput.into());
        };
        std::mem::take(pending).iter().for_each(|write| apply_write(durable, write));
        Ok(())
    }

    fn forget(&self, file: &usize) -> io::Result<()> {
        let mut state = self.lock();
        let planted = state.planted == Some(Planted::NoForget);
        let Node::File { now, durable, pending, .. } = &mut state.nodes[*file] else { return Ok(()) };
        if planted {
            return Ok(());
        }
        now.clone_from(durable);
        pending.iter().for_each(|write| apply_write(now, write));
        Ok(())
    }

    fn modified_ms(&self, path: &Path) -> io::Result<i64> {
        let state = self.lock();
        match &state.nodes[find(&state, path)?] {
            Node::File { since_ms, .. } => Ok(*since_ms),
            _ => Ok(0),
        }
    }
}

impl Sim {
    fn write(&self, file: usize, write: Write) -> io::Result<()> {
        let mut state = self.change()?;
        let Node::File { now, pending, .. } = &mut state.nodes[file] else {
            return Err(ErrorKind::InvalidInput.into());
        };
        apply_write(now, &write);
        pending.push(write);
        Ok(())
    }
}
