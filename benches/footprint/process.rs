//! What Linux tells of a process: its memory, mapping by mapping, and its processor time.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::Context;

/// Memory in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// All that is in RAM, mapped files among it.
    pub(crate) resident: u64,
    /// The part of it that no file stands behind.
    pub(crate) anonymous: u64,
}

/// The memory of a process, by what is mapped: the name of a file, `[heap]`, `[stack]`, or nothing.
pub(crate) type Mappings = BTreeMap<String, Memory>;

/// What the process has mapped now.
pub(crate) fn mappings(pid: u32) -> anyhow::Result<Mappings> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).context("this measurement reads Linux's /proc")?;
    let (mut mappings, mut current) = (Mappings::new(), String::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        // A mapping begins with its addresses; the lines of what it holds are `Name: number kB`.
        match first.strip_suffix(':') {
            None => {
                let path = words.nth(4).unwrap_or("no file");
                path.rsplit('/').next().unwrap_or(path).clone_into(&mut current);
            }
            Some(field @ ("Rss" | "Anonymous")) => {
                let size: u64 = words.next().and_then(|size| size.parse().ok()).context("a size in smaps")?;
                let memory = mappings.entry(current.clone()).or_default();
                *(if field == "Rss" { &mut memory.resident } else { &mut memory.anonymous }) += size;
            }
            Some(_) => {}
        }
    }
    Ok(mappings)
}

/// All of it together.
pub(crate) fn sum(mappings: &Mappings) -> Memory {
    let add = |sum: Memory, part: &Memory| Memory {
        resident: sum.resident + part.resident,
        anonymous: sum.anonymous + part.anonymous,
    };
    mappings.values().fold(Memory::default(), add)
}

/// The largest resident size since the process started, in KiB.
pub(crate) fn peak(pid: u32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let size = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
    size.context("no peak in /proc's status")
}

/// The time that the threads which live now have had on a processor.
pub(crate) fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        nanoseconds += text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Bytes and packets that left by `eth0` of the network namespace that the process is in.
pub(crate) fn sent(pid: u32) -> anyhow::Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev"))?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).context("no eth0")?;
    let numbers: Vec<u64> = line.split_whitespace().map_while(|number| number.parse().ok()).collect();
    Ok((*numbers.get(8).context("no bytes sent")?, *numbers.get(9).context("no packets sent")?))
}
