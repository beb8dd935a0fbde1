//! How much memory this process holds, as the kernel counts it, and giving back what it does not need. Asked by the
//! admin socket, told by the handler host when it falls quiet; decides nothing.

#[cfg(target_os = "linux")]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

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

/// Where files are mapped that are never written to: start and length of each. Empty before [`prepare`].
#[cfg(target_os = "linux")]
static UNCHANGING: OnceLock<Vec<(usize, usize)>> = OnceLock::new();
/// Where the first thread's stack ends; it grows down from there.
#[cfg(target_os = "linux")]
static STACK_END: OnceLock<usize> = OnceLock::new();

/// Makes ready for a long life in little memory. To be called once, before there is a second thread.
///
/// The allocator shall keep all memory in one heap: of its own it gives each thread one, and the few threads that read
/// files or resolve names for a moment would leave theirs behind. Of that it shall keep little for later: what a run has
/// used goes back at once. And what [`release`] may drop is looked up now, while nobody maps or unmaps anything.
pub fn prepare() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it sets numbers of the allocator, which no other thread reads yet.
    #[allow(unsafe_code)]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 32 << 10);
        libc::mallopt(libc::M_TOP_PAD, 16 << 10);
    }
    #[cfg(target_os = "linux")]
    if let Ok(smaps) = std::fs::read_to_string("/proc/self/smaps") {
        UNCHANGING.get_or_init(|| unchanging(&smaps).collect());
        if let Some(end) = stack_end(&smaps) {
            STACK_END.get_or_init(|| end);
        }
    }
}

/// Keeps this process's memory, with the secrets in it, out of core dumps. Who may read a live process's memory is
/// another matter: its own user and root.
pub fn forbid_core_dumps() {
    // Not 0: where dumps are piped to a program the kernel looks at no limit but this one, which stops both.
    let most = getrlimit(Resource::Core).maximum.map_or(1, |most| most.min(1));
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(most), maximum: Some(most) }) {
        tracing::warn!(%error, "core dumps cannot be turned off: one would hold the cluster's key and all secrets");
    }
}

/// Gives back what a burst of work leaves behind: the parts of the program that were mapped for it, the allocator's free
/// pages, and those of the stack that only deeper calls had used. What start-up and a run go through once is several megabytes of code and constants that would stay
/// resident; what is needed again is mapped again from the page cache, a few pages at a time.
pub fn release() {
    #[cfg(target_os = "linux")]
    UNCHANGING.get().into_iter().flatten().copied().for_each(unmap);
    #[cfg(target_os = "linux")]
    drop_unused_stack();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim is thread-safe and touches only memory that is free.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// More than this is looked at as a burst that may be given back while it lasts, in bytes.
const HIGH: u64 = 8 << 20;
/// At most so often, in milliseconds: what a run needs has to be mapped again then, which takes some tenths of one.
const RELEASE_EVERY: u64 = 100;

/// Calls [`release`] when more than 8 MiB are resident, and at most ten times a second: a node whose handlers never fall
/// quiet would else keep every page that the kernel maps around the ones it uses.
pub fn release_if_high() {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(since.as_millis()).unwrap_or_default();
    if now.abs_diff(LAST.load(Ordering::Relaxed)) >= RELEASE_EVERY && resident().is_some_and(|bytes| bytes > HIGH) {
        LAST.store(now, Ordering::Relaxed);
        release();
    }
}

/// What is resident, in bytes, from a count that costs the kernel nothing to tell; some hundred kilobytes inexact.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}

/// Drops the pages of a range that [`unchanging`] found in the program or in a library that it was started with.
#[cfg(target_os = "linux")]
fn unmap((start, length): (usize, usize)) {
    // SAFETY: the range is a private mapping of a file that stays mapped as long as the process lives. It cannot be
    // written to and never was, so its pages are the file's, and a fault brings them back as they were.
    #[allow(unsafe_code)]
    let _ = unsafe {
        let start = std::ptr::with_exposed_provenance_mut(start);
        rustix::mm::madvise(start, length, rustix::mm::Advice::LinuxDontNeed)
    };
}

/// So far below this frame nothing is touched: the calls that drop it are there themselves, in bytes.
#[cfg(target_os = "linux")]
const NEAR: usize = 16 << 10;
/// So much below it is dropped, in bytes. Less than the mebibyte that the kernel keeps free below a stack that grows, so
/// it is the stack's or nobody's.
#[cfg(target_os = "linux")]
const DEEP: usize = 512 << 10;
/// Farther below the end of the first thread's stack than this is another thread's, in bytes.
#[cfg(target_os = "linux")]
const STACK: usize = 8 << 20;

/// Drops what deeper calls than this one have left of the first thread's stack; reading the arguments and the config and
/// setting up the handlers' interface takes most that there ever is. Does nothing on another stack.
#[cfg(target_os = "linux")]
fn drop_unused_stack() {
    let frame = 0_u8;
    let here = std::ptr::from_ref(std::hint::black_box(&frame)).addr();
    if STACK_END.get().is_none_or(|end| !(1..=STACK).contains(&end.wrapping_sub(here))) {
        return;
    }
    let end = (here - NEAR) & !(rustix::param::page_size() - 1);
    // SAFETY: below the frames of this thread, which are all above `here` but for those of the call itself, there is
    // nothing that anybody will read before it is written again.
    #[allow(unsafe_code)]
    let _ = unsafe {
        let start = std::ptr::with_exposed_provenance_mut(end - DEEP);
        rustix::mm::madvise(start, DEEP, rustix::mm::Advice::LinuxDontNeed)
    };
}

/// The mappings of files, in the kernel's `smaps`, that are private, cannot be written to, and have no page of their own:
/// what the dynamic linker has written to before it took the right away has some.
#[cfg(target_os = "linux")]
fn unchanging(smaps: &str) -> impl Iterator<Item = (usize, usize)> {
    let mut current = None;
    smaps.lines().filter_map(move |line| match line.strip_prefix("Anonymous:") {
        Some(size) => current.take().filter(|_| size.trim() == "0 kB"),
        None => {
            // Only the line that a mapping begins with has a range for its first word.
            let mut fields = line.split_ascii_whitespace();
            if let Some(range) = fields.next().and_then(range) {
                let is_fixed = matches!(fields.next(), Some("r--p" | "r-xp"));
                current = Some(range).filter(|_| is_fixed && fields.nth(3).is_some_and(|path| path.starts_with('/')));
            }
            None
        }
    })
}

/// Where the first thread's stack ends.
#[cfg(target_os = "linux")]
fn stack_end(smaps: &str) -> Option<usize> {
    let line = smaps.lines().find(|line| line.ends_with(" [stack]"))?;
    range(line.split_ascii_whitespace().next()?).map(|(start, length)| start + length)
}

/// Start and length of `start-end`, in hexadecimal.
#[cfg(target_os = "linux")]
fn range(text: &str) -> Option<(usize, usize)> {
    let (start, end) = text.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
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
    fn only_files_that_nobody_wrote_to_are_released() {
        let smaps = "10000-20000 r--p 00000000 fe:00 7                  /usr/my bin/picored\n\
                     Size:                 64 kB\nAnonymous:             0 kB\nVmFlags: rd mr mw me\n\
                     20000-40000 r-xp 00010000 fe:00 7                  /usr/my bin/picored\nAnonymous: 0 kB\n\
                     40000-48000 r--p 00030000 fe:00 7                  /usr/my bin/picored\nAnonymous: 32 kB\n\
                     48000-50000 rw-p 00038000 fe:00 7                  /usr/my bin/picored\nAnonymous: 0 kB\n\
                     60000-61000 r-xp 00000000 00:00 0 \nAnonymous: 0 kB\n\
                     70000-71000 rwxp 00000000 fe:00 9                  /tmp/odd\nAnonymous: 0 kB\n\
                     80000-81000 r--s 00000000 fe:00 9                  /tmp/shared\nAnonymous: 0 kB\n\
                     7f0000003000-7f0000005000 r-xp 00001000 fe:00 9    /lib/libc.so\nAnonymous: 0 kB\n\
                     7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0    [vdso]\nAnonymous: 0 kB\nnonsense\n";
        let found: Vec<_> = unchanging(smaps).collect();
        assert_eq!(found, [(0x10000, 0x10000), (0x20000, 0x20000), (0x7f00_0000_3000, 0x2000)]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_program_is_released_and_runs_on() {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (code, constant) = (release as fn() as usize, "a constant".as_ptr().addr());
        for address in [code, constant] {
            let mut found = unchanging(&smaps);
            let found = found.find(|(start, length)| (*start..start + length).contains(&address));
            unmap(found.unwrap_or_else(|| panic!("{address:x} in\n{smaps}")));
        }
        assert_eq!(parse("Rss: 4 kB\n").resident_bytes, Some(4096));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn another_thread_keeps_its_stack() {
        prepare();
        let end = *STACK_END.get().unwrap();
        assert!(end > std::ptr::from_ref(&end).addr(), "the first thread's stack is above all others");
        let kept = [7_u8; 64 << 10];
        drop_unused_stack();
        assert!(std::hint::black_box(kept).iter().all(|byte| *byte == 7));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_stack_ends_where_the_kernel_says() {
        let smaps = "7ffd00000000-7ffd00002000 rw-p 00000000 00:00 0    [stack]\nRss: 8 kB\n";
        assert_eq!(stack_end(smaps), Some(0x7ffd_0000_2000));
        assert_eq!(stack_end("7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0    [vdso]\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_cheap_count_is_near_the_exact_one() {
        let (cheap, exact) = (resident().unwrap(), current().resident_bytes.unwrap());
        assert!(cheap.abs_diff(exact) < 64 << 20, "{cheap} and {exact}");
        assert!(cheap > 1 << 20);
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
