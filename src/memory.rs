//! How much memory this process holds, as the kernel counts it, and giving back what it does not need. Asked by the
//! admin socket, told by the handler host when it falls quiet; keeps and decides nothing.

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

/// Gives back what a burst of work leaves behind: the allocator's free pages, and the program code that was mapped for
/// it. What start-up and a run go through once is several megabytes of code that would stay resident; what is needed
/// again is mapped again from the page cache, a few pages at a time.
pub fn release() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim is thread-safe and touches only memory that is free.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
    #[cfg(target_os = "linux")]
    for (start, length) in std::fs::read_to_string("/proc/self/maps").iter().flat_map(|maps| code(maps)) {
        // SAFETY: the range is a private mapping of a file that was never writable, as its permissions and the absence
        // of text relocations say: its pages are the file's, and a fault brings them back as they were.
        #[allow(unsafe_code)]
        let _ = unsafe {
            rustix::mm::madvise(std::ptr::with_exposed_provenance_mut(start), length, rustix::mm::Advice::LinuxDontNeed)
        };
    }
}

/// Where the code of files is mapped: private, executable and not writable. Start and length.
fn code(maps: &str) -> impl Iterator<Item = (usize, usize)> {
    maps.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (range, permissions, path) = (fields.next()?, fields.next()?, fields.nth(3)?);
        let (start, end) = range.split_once('-')?;
        let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        (permissions == "r-xp" && path.starts_with('/') && end > start).then_some((start, end - start))
    })
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

    #[test]
    fn only_code_of_files_is_released() {
        let maps = "55d0c8a00000-55d0c8a10000 r--p 00000000 fe:00 7 /usr/bin/picored\n\
                    55d0c8a10000-55d0c8a30000 r-xp 00010000 fe:00 7 /usr/bin/picored\n\
                    55d0c8a30000-55d0c8a40000 rw-p 00030000 fe:00 7 /usr/bin/picored\n\
                    55d0c9000000-55d0c9001000 r-xp 00000000 00:00 0 \n\
                    7f0000000000-7f0000001000 rwxp 00000000 fe:00 9 /tmp/odd\n\
                    7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0 [vdso]\nnonsense\n";
        assert_eq!(code(maps).collect::<Vec<_>>(), [(0x55d0_c8a1_0000, 0x20000)]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_programs_code_is_released_and_runs_on() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let here = release as fn() as usize;
        assert!(code(&maps).any(|(start, length)| (start..start + length).contains(&here)));
        release();
        assert_eq!(parse("Rss: 4 kB\n").resident_bytes, Some(4096));
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
