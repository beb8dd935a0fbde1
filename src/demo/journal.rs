//! What the demo's processes said: the last lines of each, and the facts in the nodes' JSON log lines.
//!
//! From these the demo knows what a node noticed and which run of a handler changed the record, to the microsecond. It
//! lives in a watch channel: [`super::process`] writes it, [`super::stage`] and [`super::story`] wait on it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, SystemTime};

use serde_json::Value;

/// How many last lines of a process are kept, to be shown if something goes wrong.
const TAIL_LINES: usize = 20;
/// How many facts are kept. A whole demo has some dozens; this bounds one that is left running.
const MAX_FACTS: usize = 4096;

/// Something a node logged that the demo makes use of.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// It is a member among others.
    Joined,
    /// It noticed something.
    Event {
        /// The event's id, the same on every node.
        id: String,
    },
    /// A run of a handler began.
    Started {
        /// The delivery, unique on the node while it lives.
        delivery: String,
        /// The event that it is for.
        event_id: String,
    },
    /// A run ended.
    Ended {
        /// The delivery, unique on the node while it lives.
        delivery: String,
        /// Whether it changed the world outside.
        changed: bool,
        /// How long the handler ran.
        run: Duration,
    },
}

/// Who logged what, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// The node.
    pub node: String,
    /// The log line's own time.
    pub at: SystemTime,
    /// What it says.
    pub what: What,
}

/// The run of a handler that made a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The node it ran on.
    pub node: String,
    /// When a node first noticed its event, if one logged it.
    pub noticed: Option<SystemTime>,
    /// When it was started.
    pub started: SystemTime,
    /// How long the handler ran.
    pub run: Duration,
}

/// All that was said.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    tails: BTreeMap<String, VecDeque<String>>,
    facts: VecDeque<Fact>,
    running: BTreeSet<String>,
    ended_by_itself: Option<String>,
}

impl Journal {
    /// Notes that `process` was started.
    pub fn begin(&mut self, process: &str) {
        self.running.insert(process.into());
        self.tails.entry(process.into()).or_default();
    }

    /// Notes that `process` is about to be ended, so that its end is no surprise.
    pub fn expect_end(&mut self, process: &str) {
        self.running.remove(process);
    }

    /// Notes that `process` ended.
    pub fn end(&mut self, process: &str) {
        if self.running.remove(process) {
            self.ended_by_itself = Some(process.into());
        }
    }

    /// The last process that ended though nobody asked it to.
    pub fn ended_by_itself(&self) -> Option<&str> {
        self.ended_by_itself.as_deref()
    }

    /// Takes a line of `process`. What is no line of a node's log is kept among its last lines, like any other.
    pub fn line(&mut self, process: &str, line: &str) {
        if let Some((at, what)) = read(line) {
            if self.facts.len() == MAX_FACTS {
                self.facts.pop_front();
            }
            self.facts.push_back(Fact { node: process.into(), at, what });
        }
        let tail = self.tails.entry(process.into()).or_default();
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(line.into());
    }

    /// The last lines of each process that said anything, by its name.
    pub fn tails(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = &str>)> {
        let tails = self.tails.iter().filter(|(_, lines)| !lines.is_empty());
        tails.map(|(process, lines)| (process.as_str(), lines.iter().map(String::as_str)))
    }

    /// When `node` said for the first time since `since` that it has joined.
    pub fn joined(&self, node: &str, since: SystemTime) -> Option<SystemTime> {
        let facts = self.facts.iter().filter(|fact| fact.node == node && fact.at >= since);
        facts.filter(|fact| fact.what == What::Joined).map(|fact| fact.at).min()
    }

    /// The run that was under way at `moment` and that ended saying that it changed something; what was noticed before
    /// `begin` is another story.
    pub fn run_around(&self, begin: SystemTime, moment: SystemTime) -> Option<Run> {
        self.facts.iter().find_map(|end| {
            let What::Ended { delivery, changed: true, run } = &end.what else { return None };
            if end.at < moment {
                return None;
            }
            // A delivery is tried again under its name, and a node that restarts counts anew: the last start counts.
            let starts = self.facts.iter().filter_map(|fact| match &fact.what {
                What::Started { delivery: started, event_id } => {
                    (fact.node == end.node && started == delivery).then_some((fact.at, event_id))
                }
                _ => None,
            });
            let (started, event_id) = starts.filter(|(at, _)| *at <= end.at).max_by_key(|(at, _)| *at)?;
            (started <= moment).then(|| Run {
                node: end.node.clone(),
                noticed: self.first_notice(event_id, begin),
                started,
                run: *run,
            })
        })
    }

    fn first_notice(&self, event_id: &str, since: SystemTime) -> Option<SystemTime> {
        let facts = self.facts.iter().filter(|fact| matches!(&fact.what, What::Event { id } if id == event_id));
        facts.map(|fact| fact.at).filter(|at| *at >= since).min()
    }
}

/// Reads a line of a node's log; `None` if it says nothing that is used here.
fn read(line: &str) -> Option<(SystemTime, What)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| line.get(key).and_then(Value::as_str);
    let owned = |key: &str| text(key).map(str::to_owned);
    let what = match (text("target")?, text("message")?) {
        ("picored::node", "joined") => What::Joined,
        ("picored::event", _) => What::Event { id: owned("id")? },
        ("picored::delivery", "started") => {
            What::Started { delivery: owned("delivery")?, event_id: owned("event_id")? }
        }
        ("picored::delivery", "ended") => What::Ended {
            delivery: owned("delivery")?,
            changed: line.get("changed").and_then(Value::as_bool).unwrap_or(false),
            run: Duration::try_from_secs_f64(line.get("run_ms").and_then(Value::as_f64)? / 1000.0).ok()?,
        },
        _ => return None,
    };
    Some((timestamp(text("timestamp")?)?, what))
}

/// Reads RFC 3339 in UTC, with `Z`, from 1970 on.
fn timestamp(text: &str) -> Option<SystemTime> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.splitn(3, ':');
    let (hour, minute) = (time.next()?.parse::<u64>().ok()?, time.next()?.parse::<u64>().ok()?);
    let seconds = Duration::try_from_secs_f64(time.next()?.parse().ok()?).ok()?;
    let in_range = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !in_range || hour > 23 || minute > 59 || seconds.as_secs() > 60 {
        return None;
    }
    // Days of a calendar whose years begin in March, so that the leap day comes last, in eras of 400 years.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year / 400, year % 400);
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400 + hour * 3600 + minute * 60) + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> SystemTime {
        timestamp("2026-03-01T12:00:00Z").unwrap() + Duration::from_secs_f64(seconds)
    }

    fn journal(lines: &[(&str, f64, &str)]) -> Journal {
        let mut journal = Journal::default();
        for (node, seconds, rest) in lines {
            journal.line(node, &format!(r#"{{"timestamp":"2026-03-01T12:00:{seconds:09.6}Z",{rest}}}"#));
        }
        journal
    }

    const NOTICED: &str = r#""target":"picored::event","message":"app-down","id":"e1","app":"www","member":"web2""#;
    const STARTED: &str = r#""target":"picored::delivery","message":"started","delivery":"dns/7","event_id":"e1""#;
    const ENDED: &str =
        r#""target":"picored::delivery","message":"ended","delivery":"dns/7","changed":true,"run_ms":3.2"#;

    #[test]
    fn timestamps_are_read_as_the_core_writes_them() {
        use picored_core::time::Wall;
        for ms in [0, 951_782_400_000, 951_868_799_999, 1_700_000_000_123, 4_102_444_799_999] {
            let read = timestamp(&Wall(ms).rfc3339()).unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            assert_eq!(read.as_micros(), u128::from(ms) * 1000, "{}", Wall(ms).rfc3339());
        }
        let micro = timestamp("1970-01-01T00:00:01.000001Z").unwrap();
        assert_eq!(micro.duration_since(SystemTime::UNIX_EPOCH).unwrap(), Duration::from_micros(1_000_001));
        for bad in [
            "",
            "Z",
            "2026-03-01",
            "2026-03-01T12:00:00",
            "2026-03-01T12:00:00+01:00",
            "2026-13-01T12:00:00Z",
            "2026-03-01T24:00:00Z",
            "2026-03-01T12:00:-1Z",
            "2026-03-01T12:00:NaNZ",
            "0000-03-01T12:00:00Z",
        ] {
            assert_eq!(timestamp(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_run_that_made_a_change_is_found_with_its_event() {
        let journal = journal(&[
            ("web3", 2.5, NOTICED),
            ("web1", 2.0, NOTICED),
            ("web1", 2.1, STARTED),
            ("web1", 2.2, &ENDED.replace("true", "false")),
            ("web1", 2.3, STARTED),
            ("web2", 2.35, STARTED),
            ("web1", 2.4, ENDED),
        ]);
        let run =
            Run { node: "web1".into(), noticed: Some(at(2.0)), started: at(2.3), run: Duration::from_secs_f64(0.0032) };
        assert_eq!(journal.run_around(at(0.0), at(2.35)), Some(run));
        assert_eq!(journal.run_around(at(0.0), at(2.25)), None, "between two runs");
        assert_eq!(journal.run_around(at(0.0), at(2.15)), None, "the run says that it changed nothing");
        assert_eq!(journal.run_around(at(0.0), at(2.45)), None, "after the last run");
    }

    #[test]
    fn a_run_without_a_notice_is_found_all_the_same() {
        let run = journal(&[("web1", 1.0, STARTED), ("web1", 1.2, ENDED)]).run_around(at(0.0), at(1.1)).unwrap();
        assert_eq!(run.noticed, None);
        let journal = journal(&[("web1", 1.0, NOTICED), ("web1", 1.0, STARTED), ("web1", 1.2, ENDED)]);
        assert_eq!(journal.run_around(at(1.05), at(1.1)).unwrap().noticed, None, "noticed before");
    }

    #[test]
    fn only_this_life_of_a_node_counts_as_joined() {
        let joined = r#""target":"picored::node","message":"joined","members":3"#;
        let journal = journal(&[("web1", 1.0, joined), ("web1", 5.0, joined)]);
        assert_eq!(journal.joined("web1", at(0.0)), Some(at(1.0)));
        assert_eq!(journal.joined("web1", at(2.0)), Some(at(5.0)));
        assert_eq!(journal.joined("web1", at(6.0)), None);
        assert_eq!(journal.joined("web2", at(0.0)), None);
    }

    #[test]
    fn other_lines_are_kept_as_text_and_not_without_end() {
        let mut journal = Journal::default();
        for line in ["", "panicked", "{}", "[1]", r#"{"timestamp":1,"target":2,"message":3}"#] {
            journal.line("web1", line);
        }
        assert!(journal.facts.is_empty());
        for number in 0..100 {
            journal.line("web1", &number.to_string());
        }
        let (process, lines) = journal.tails().next().unwrap();
        assert_eq!(process, "web1");
        assert_eq!(lines.collect::<Vec<_>>().first(), Some(&"80"));
    }

    #[test]
    fn only_an_end_that_nobody_asked_for_is_a_surprise() {
        let mut journal = Journal::default();
        journal.begin("web1");
        journal.begin("web2");
        journal.expect_end("web1");
        journal.end("web1");
        assert_eq!(journal.ended_by_itself(), None);
        journal.end("web2");
        assert_eq!(journal.ended_by_itself(), Some("web2"));
    }
}
