//! Every bound of a guest: one value each, with its default and the range that is sensible.
//!
//! [`Limits`] is read when a run's store is built (`store::new_store`) and by the HTTP gate; nothing else knows a
//! number. [`Limiter`] is what wasmtime asks before memory or tables grow. It sums them, and remembers that it refused,
//! so that the trap that follows a refusal gets its true name.

use std::time::Duration;

/// What one run of a handler may use. Exceeding one ends that run alone, with a named reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// CPU time of the run on the daemon's thread, host calls included. Default 2 s; 50 ms to 60 s.
    pub cpu: Duration,
    /// Wall time of `describe`; a run's is the handler's own `timeout`. Default 10 s; 100 ms to 60 s.
    pub describe: Duration,
    /// Linear memory, all memories together, in bytes. Default 64 MiB; 2 MiB to 1 GiB.
    pub memory_bytes: usize,
    /// Elements of all tables together. Default 20 000 (Python's guest has 5 800); 1 000 to 1 000 000.
    pub table_elements: usize,
    /// Core instances; also the bound for memories and for tables. Default 64 (Python's guest has 14); 8 to 1 000.
    pub instances: usize,
    /// Handles that the component holds. Default 1 024; 64 to 10 000.
    pub component_handles: usize,
    /// Entries in the host's table of resources. Default 1 024; 64 to 10 000.
    pub resources: usize,
    /// Bytes that one call may hand to the host. Default 2 MiB; above `request_body_bytes`, up to 64 MiB.
    pub hostcall_bytes: usize,
    /// Bytes of randomness in one call. Default 64 KiB; 1 KiB to 1 MiB.
    pub random_bytes: u64,
    /// Bytes of log lines, stdout and stderr together, plus 64 for each line. Default 64 KiB; 1 KiB to 1 MiB.
    pub log_bytes: usize,
    /// Bytes of one log line; the rest is cut. Default 1 KiB; 80 to 16 KiB.
    pub log_line_bytes: usize,
    /// Keys and values that a handler keeps, in bytes, plus 64 for each key. Default 64 KiB; 0 to 16 MiB.
    pub keyvalue_bytes: usize,
    /// How long the code of a handler that does nothing stays mapped, or up to twice that. Default 2 s; 10 ms to 60 s.
    pub quiet: Duration,
    /// HTTP.
    pub http: HttpLimits,
}

/// What one run may do over HTTP. Exceeding one is an error that the guest is told, not the end of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Requests in a run, refused ones included. Default 100; 1 to 10 000.
    pub requests: u32,
    /// Bytes of a request's headers. Default 16 KiB; 1 KiB to 64 KiB.
    pub request_header_bytes: usize,
    /// Bytes of a request's body. Default 1 MiB; 0 to 32 MiB.
    pub request_body_bytes: usize,
    /// Bytes of a response's status line and headers. Default 16 KiB; 8 KiB (the least that the HTTP library reads
    /// with) to 256 KiB.
    pub response_header_bytes: usize,
    /// Bytes of a response's body. Default 1 MiB; 1 KiB to 32 MiB.
    pub response_body_bytes: usize,
    /// Bytes of all responses' bodies in a run. Default 8 MiB; `response_body_bytes` to 256 MiB.
    pub run_body_bytes: usize,
    /// Names that are resolved at a time for one handler, in all of its runs; those that a run gave up stay among them
    /// until the system's resolver does. Default 2, for which the runtime has threads; 1 to 2.
    pub lookups: usize,
    /// Resolving a name. Default 5 s; 100 ms to 30 s.
    pub resolve: Duration,
    /// Connecting to one address, and TLS. Default 3 s each; 100 ms to 30 s.
    pub connect: Duration,
    /// A whole request, from the first to the last byte. Default 15 s; 100 ms to 300 s; never beyond the run's
    /// deadline.
    pub total: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu: Duration::from_secs(2),
            describe: Duration::from_secs(10),
            memory_bytes: 64 << 20,
            table_elements: 20_000,
            instances: 64,
            component_handles: 1024,
            resources: 1024,
            hostcall_bytes: 2 << 20,
            random_bytes: 64 << 10,
            log_bytes: 64 << 10,
            log_line_bytes: 1 << 10,
            keyvalue_bytes: 64 << 10,
            quiet: Duration::from_secs(2),
            http: HttpLimits {
                requests: 100,
                request_header_bytes: 16 << 10,
                request_body_bytes: 1 << 20,
                response_header_bytes: 16 << 10,
                response_body_bytes: 1 << 20,
                run_body_bytes: 8 << 20,
                lookups: 2,
                resolve: Duration::from_secs(5),
                connect: Duration::from_secs(3),
                total: Duration::from_secs(15),
            },
        }
    }
}

/// The largest component that is taken, in bytes. CPython's is 22 MB.
pub const MAX_COMPONENT_BYTES: u64 = 64 << 20;

/// What the compiler's process may use.
pub(crate) mod compiler {
    use std::time::Duration;

    /// Address space. The largest guests known (JavaScript, Python) take 330 MB.
    pub(crate) const MEMORY_BYTES: u64 = 1 << 30;
    /// CPU time. The largest guests known take 14 s in a release build.
    pub(crate) const CPU_SECONDS: u64 = 120;
    /// From start to end.
    pub(crate) const WALL: Duration = Duration::from_secs(300);
    /// What it may write. The largest guests known make 39 MB.
    pub(crate) const OUTPUT_BYTES: u64 = 256 << 20;
    /// What an instance of one core module may take of the host beside its memories and tables, in bytes. The largest
    /// guests known take about 300 KiB; a run may have 64 instances.
    pub(crate) const INSTANCE_BYTES: u64 = 1 << 20;
    /// Instances, functions between them and types, in all components together. The largest guests known have hundreds;
    /// each takes some 100 bytes of the host in a run.
    pub(crate) const COMPONENT_PARTS: u64 = 100_000;
}

/// Answers wasmtime's questions about growth for one store.
#[derive(Debug)]
pub(crate) struct Limiter {
    memory: Sum,
    tables: Sum,
    instances: usize,
}

/// One quantity, summed over all that hold it.
#[derive(Debug)]
struct Sum {
    what: &'static str,
    used: usize,
    last: usize,
    limit: usize,
    refused: Option<usize>,
}

impl Sum {
    fn new(what: &'static str, limit: usize) -> Self {
        Self { what, used: 0, last: 0, limit, refused: None }
    }

    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let more = desired.saturating_sub(current);
        let total = self.used.saturating_add(more);
        let fits = total <= self.limit;
        if fits {
            self.used = total;
            self.last = more;
        } else {
            self.refused = Some(total);
        }
        fits
    }

    /// Growth that was granted did not happen after all.
    fn undo(&mut self) {
        self.used -= std::mem::take(&mut self.last);
    }

    fn refusal(&self) -> Option<String> {
        self.refused.map(|asked| format!("asked for {asked} {}; the limit is {}", self.what, self.limit))
    }
}

impl Limiter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            memory: Sum::new("bytes of memory", limits.memory_bytes),
            tables: Sum::new("table elements", limits.table_elements),
            instances: limits.instances,
        }
    }

    /// What was refused, if anything was.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.memory.refusal().or_else(|| self.tables.refusal())
    }
}

impl wasmtime::ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.memory.grow(current, desired))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.memory.undo();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.tables.grow(current, desired))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.tables.undo();
        Ok(())
    }

    fn instances(&self) -> usize {
        self.instances
    }

    fn tables(&self) -> usize {
        self.instances
    }

    fn memories(&self) -> usize {
        self.instances
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::ResourceLimiter;

    use super::*;

    #[test]
    fn memories_are_summed_and_a_refusal_is_remembered() {
        let mut limiter = Limiter::new(&Limits { memory_bytes: 100, ..Limits::default() });
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(limiter.memory_growing(0, 40, None).unwrap());
        assert_eq!(limiter.refusal(), None);
        assert!(!limiter.memory_growing(40, 41, None).unwrap());
        assert_eq!(limiter.refusal().unwrap(), "asked for 101 bytes of memory; the limit is 100");
    }

    #[test]
    fn growth_that_failed_is_given_back() {
        let mut limiter = Limiter::new(&Limits { table_elements: 10, ..Limits::default() });
        assert!(limiter.table_growing(0, 10, None).unwrap());
        limiter.table_grow_failed(wasmtime::Error::msg("no")).unwrap();
        assert!(limiter.table_growing(0, 10, None).unwrap());
        assert!(!limiter.table_growing(10, 11, None).unwrap());
    }

    #[test]
    fn a_call_can_carry_the_largest_body() {
        let limits = Limits::default();
        assert!(limits.hostcall_bytes > limits.http.request_body_bytes + limits.http.request_header_bytes);
    }
}
