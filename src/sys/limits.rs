//! What the system lets this process have.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open files towards `wanted`, as far as the hard limit allows, and returns what it
/// is then. Never lowers it.
pub fn raise_open_files(wanted: u64) -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // None stands for "unlimited".
    let Some(soft) = current else { return Ok(u64::MAX) };
    let target = wanted.min(maximum.unwrap_or(u64::MAX));
    if target <= soft {
        return Ok(soft);
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(target), maximum })?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_never_lowered() {
        let before = raise_open_files(0).unwrap();
        assert!(before > 0);
        assert_eq!(raise_open_files(1).unwrap(), before);
    }
}
