//! How much memory this process holds, as the kernel counts it. Asked by the admin socket; keeps and decides nothing.

/// Memory of this process in bytes; `None` where the system does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All that is in RAM, mapped files among it.
    pub resident_bytes: Option<u64>,
    /// The part of it that no file stands behind: heap, stacks, what was written to.
    pub anonymous_bytes: Option<u64>,
}

/// The figures of this moment. Linux tells them in `/proc/self/smaps_rollup`; elsewhere there are none.
pub fn current() -> Memory {
    std::fs::read_to_string("/proc/self/smaps_rollup").map(|text| parse(&text)).unwrap_or_default()
}

fn parse(rollup: &str) -> Memory {
    let bytes = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Memory { resident_bytes: bytes("Rss"), anonymous_bytes: bytes("Anonymous") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_text_is_read() {
        let text = "00400000-7fff rollup\nRss:                1820 kB\nPss:  77 kB\nAnonymous:             112 kB\n\
                    LazyFree: 0 kB\nAnonHugePages:         5 kB\n";
        let expected = Memory { resident_bytes: Some(1820 * 1024), anonymous_bytes: Some(112 * 1024) };
        assert_eq!(parse(text), expected);
        assert_eq!(parse("Rss: many kB\n"), Memory::default());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn anonymous_memory_grows_with_what_is_written() {
        let before = current();
        let written = vec![1_u8; 32 << 20];
        let after = current();
        let grown = after.anonymous_bytes.unwrap() - before.anonymous_bytes.unwrap();
        assert!(grown >= 16 << 20, "{grown} bytes for {} written", written.len());
        assert!(after.resident_bytes >= after.anonymous_bytes);
    }
}
