//! Watches a handler's file: says so when it has become another and has come to rest. It reads no byte of it.
//!
//! For `watch = true`, while a handler is being written: a look each second is enough there, and works on every file
//! system. Started by the driver's `handlers`; what a change means is theirs to say.

use std::path::PathBuf;
use std::time::Duration;

use picored_core::name::HandlerName;
use tokio::sync::{mpsc, oneshot};

use super::Report;
use crate::stamp::Stamp;

/// Between two looks. A file that is the same twice is not being written any more, as far as anyone can tell.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Which states of the file were told of, and which one may be on its way.
#[derive(Debug)]
struct Watch {
    told: Option<Stamp>,
    seen: Option<Stamp>,
}

impl Watch {
    /// Whether the file as it is `now` is to be told of.
    fn look(&mut self, now: Option<Stamp>) -> bool {
        let rests = std::mem::replace(&mut self.seen, now) == now;
        // A file that is gone for a moment is being replaced.
        now.is_some() && rests && now != self.told
    }
}

/// Watches until nobody wants to know any more. What is there when this is called is known.
pub(super) fn watch(
    path: PathBuf,
    handler: HandlerName,
    reports: mpsc::Sender<Report>,
) -> impl Future<Output = ()> + Send {
    let known = Stamp::at(&path);
    let mut watch = Watch { told: known, seen: known };
    async move {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = Stamp::at(&path);
            if watch.look(now) {
                let (taken, answer) = oneshot::channel();
                let report = Report::FileChanged { handler: handler.clone(), taken };
                if reports.send(report).await.is_err() {
                    return;
                }
                match answer.await {
                    Ok(true) => watch.told = now,
                    // Something else is under way: once more at the next look.
                    Ok(false) => {}
                    Err(_) => return,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_of_when_it_is_another_and_rests() {
        let state = |size| Some(Stamp::of_size(size));
        let mut watch = Watch { told: state(1), seen: state(1) };
        for (now, is_told) in [
            (state(1), false),
            // Being written.
            (state(2), false),
            (state(3), false),
            (state(3), true),
            // Replaced.
            (None, false),
            (None, false),
            (state(4), false),
            (state(4), true),
            (state(4), false),
            // Back before anybody was told.
            (state(5), false),
            (state(4), false),
            (state(4), false),
        ] {
            assert_eq!(watch.look(now), is_told, "{now:?}");
            if is_told {
                watch.told = now;
            }
        }
    }

    #[test]
    fn a_file_that_is_written_over_or_replaced_has_another_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a"), dir.path().join("b"));
        assert_eq!(Stamp::at(&path), None);
        std::fs::write(&path, "one").unwrap();
        let first = Stamp::at(&path);
        std::fs::write(&other, "two").unwrap();
        std::fs::rename(&other, &path).unwrap();
        let second = Stamp::at(&path);
        std::fs::write(&path, "three").unwrap();
        assert!(first.is_some() && first != second && second != Stamp::at(&path));
    }
}
