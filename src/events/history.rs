//! What happened, on the disk: it outlives the process and the short memory, and is bounded all the same.
//!
//! Lines are appended as they come, by one task, without waiting for the disk: what the last second of a machine that loses
//! its power held may be lost. Of two files the older one goes when the newer one is full. Written and read by [`super`].

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Take, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::{Reader, Wanted};

/// So large the newer of the two files becomes, in bytes.
const LARGEST: u64 = 1 << 20;
/// So much is read at a time, in bytes.
const CHUNK: usize = 16 << 10;

/// The files, and how far they are written. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct History(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    current: PathBuf,
    old: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    file: Option<File>,
    size: u64,
    /// The number of the last happening of this process that is in the files, or was given up.
    last: u64,
    has_complained: bool,
}

impl History {
    /// In the folder `state_dir`. Nothing is read or written yet.
    pub fn new(state_dir: &Path) -> Self {
        let (current, old) = (state_dir.join("history"), state_dir.join("history.old"));
        Self(Arc::new(Shared { current, old, kept: Mutex::default() }))
    }

    /// Keeps all that `reader` comes by, until the other end of `ended` is gone.
    pub async fn keep(self, mut reader: Reader, mut ended: oneshot::Receiver<()>) {
        loop {
            let text = tokio::select! {
                text = reader.wait() => text,
                _ = &mut ended => {
                    let rest = reader.lines();
                    return self.append(&rest, reader.seen());
                }
            };
            let (history, last) = (self.clone(), reader.seen());
            // It only fails if the process ends.
            let _ = tokio::task::spawn_blocking(move || history.append(&text, last)).await;
        }
    }

    /// Without an end to fail: the log says once that nothing can be kept, and again when it can.
    fn append(&self, text: &str, last: u64) {
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last = last;
        let file = self.0.current.display();
        match self.0.write(&mut kept, text.as_bytes()) {
            Ok(()) if kept.has_complained => {
                kept.has_complained = false;
                tracing::info!(target: "picored::store", %file, "the history is kept again");
            }
            Ok(()) => {}
            Err(error) => {
                // What was written of it is cut off with the next attempt, which opens the file again.
                if !std::mem::replace(&mut kept.has_complained, true) {
                    let text = "`picored events --since` will miss what happens now";
                    tracing::error!(target: "picored::store", %file, %error, text, "the history cannot be kept");
                }
            }
        }
    }

    /// All that is kept, and the number of the last happening of this process in it. Waits for the disk.
    pub(super) fn read(&self) -> (Past, u64) {
        let kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let open = |path: &Path| {
            let file = File::open(path).ok()?;
            // What is written from now on comes from the memory.
            let size = file.metadata().ok()?.len();
            Some(BufReader::new(file.take(size)))
        };
        let files = [open(&self.0.old), open(&self.0.current)];
        (Past(files.into_iter().flatten().collect()), kept.last)
    }
}

impl Shared {
    fn write(&self, kept: &mut Kept, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.opened(kept)?;
        if kept.size > 0 && kept.size + bytes.len() as u64 > LARGEST {
            fs::rename(&self.current, &self.old)?;
            drop(file);
            file = self.opened(kept)?;
        }
        file.write_all(bytes)?;
        kept.size += bytes.len() as u64;
        kept.file = Some(file);
        Ok(())
    }

    /// The newer file, taken out of `kept` or opened at the end of its last whole line.
    fn opened(&self, kept: &mut Kept) -> io::Result<File> {
        if let Some(file) = kept.file.take() {
            return Ok(file);
        }
        let mut options = OpenOptions::new();
        let mut file = options.create(true).read(true).write(true).truncate(false).mode(0o600).open(&self.current)?;
        kept.size = end_of_lines(&mut file)?;
        file.set_len(kept.size)?;
        file.seek(SeekFrom::Start(kept.size))?;
        Ok(file)
    }
}

/// Where the last whole line ends: what comes behind was cut short.
fn end_of_lines(file: &mut File) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut buffer = [0; 4096];
    while end > 0 {
        let from = end.saturating_sub(buffer.len() as u64);
        let part = &mut buffer[..usize::try_from(end - from).unwrap_or(0)];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(part)?;
        if let Some(last) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(from + last as u64 + 1);
        }
        end = from;
    }
    Ok(0)
}

/// A reader's place in the files.
#[derive(Debug)]
pub(super) struct Past(VecDeque<BufReader<Take<File>>>);

impl Past {
    /// The next lines that are wanted, if there are any. Waits for the disk.
    pub(super) fn chunk(&mut self, wanted: &Wanted) -> String {
        let (mut text, mut line) = (String::new(), Vec::new());
        while let Some(file) = self.0.front_mut().filter(|_| text.len() < CHUNK) {
            line.clear();
            match file.read_until(b'\n', &mut line) {
                Ok(read) if read > 0 => {
                    let whole = str::from_utf8(&line).ok().filter(|line| line.ends_with('\n'));
                    text.extend(whole.filter(|line| wanted.includes(line)));
                }
                _ => drop(self.0.pop_front()),
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Events, Happening, Lost, REMEMBERED};
    use super::*;
    use picored_core::governor::Hold;
    use picored_core::name::{AppName, NodeName};
    use picored_core::node::Notice;
    use picored_core::time::Wall;

    fn held(events: &Events, minute: u64) {
        let (app, member) = (AppName::new("www").unwrap(), NodeName::new("web1").unwrap());
        events.note(&Notice::Held { app, member, reason: Hold::NeverEmpty }, Wall(minute * 60_000));
    }

    async fn all(events: &Events, since: Option<u64>, kinds: &[&str]) -> Vec<String> {
        let kinds = kinds.iter().map(ToString::to_string).collect();
        let wanted = Wanted { follow: false, since: since.map(|minute| Wall(minute * 60_000).rfc3339()), kinds };
        let mut lines = events.lines(wanted);
        let mut times = Vec::new();
        while let Some(text) = lines.next().await {
            let time = |line: &str| match serde_json::from_str::<Lost>(line) {
                Ok(Lost { lost }) => format!("lost {lost}"),
                Err(_) => serde_json::from_str::<Happening>(line).unwrap().time[11..16].to_owned(),
            };
            times.extend(text.lines().map(time));
        }
        times
    }

    /// A process that lives until `f` is done.
    async fn process<T>(dir: &Path, f: impl AsyncFnOnce(&Events) -> T) -> T {
        let history = History::new(dir);
        let events = Events::new(Some(history.clone()));
        let (end, ended) = oneshot::channel();
        let keeping = tokio::spawn(history.keep(events.reader(), ended));
        let done = f(&events).await;
        drop(end);
        keeping.await.unwrap();
        done
    }

    #[tokio::test]
    async fn what_happened_before_a_restart_is_told_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        process(dir.path(), async |events| {
            held(events, 1);
            assert_eq!(all(events, Some(0), &[]).await, ["00:01"]);
            held(events, 2);
        })
        .await;
        // Cut short as the power went.
        OpenOptions::new().append(true).open(dir.path().join("history")).unwrap().write_all(b"{\"time\":\"2").unwrap();
        process(dir.path(), async |events| {
            assert_eq!(all(events, Some(0), &[]).await, ["00:01", "00:02"]);
            held(events, 3);
            for _ in 0..20 {
                // Whether it is kept by now or not.
                assert_eq!(all(events, Some(2), &["held"]).await, ["00:02", "00:03"]);
                tokio::task::yield_now().await;
            }
            assert_eq!(all(events, None, &[]).await, ["00:03"], "the memory alone");
            assert_eq!(all(events, Some(0), &["app-down"]).await, [""; 0]);
        })
        .await;
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(dir.path().join("history")).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn the_files_are_bounded_and_a_folder_that_is_gone_harms_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let mut history = History::new(dir.path());
        let line =
            format!("{{\"time\":\"{}\",\"kind\":\"held\",\"text\":\"{}\"}}\n", Wall(0).rfc3339(), "x".repeat(400));
        let size = |name: &str| fs::metadata(dir.path().join(name)).unwrap().len();
        for number in 1..=(3 * LARGEST / line.len() as u64) {
            if number.is_multiple_of(100) {
                // The next process.
                history = History::new(dir.path());
            }
            history.append(&line, number);
            assert!(size("history") <= LARGEST);
        }
        assert!(size("history.old") <= LARGEST);
        assert!(size("history") + size("history.old") > LARGEST);
        let gone = dir.path().join("gone");
        process(&gone, async |events| {
            (0..2 * REMEMBERED as u64).for_each(|minute| held(events, minute));
            assert_eq!(all(events, Some(0), &[]).await[0], format!("lost {REMEMBERED}"));
        })
        .await;
    }
}
