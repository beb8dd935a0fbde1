//! What the demo shows: each step with its measured times, as a line for people or an object for programs.
//!
//! On a terminal the step under way is shown with its running time, and is overwritten when it ends; elsewhere only
//! what has ended is written. With `--json` nothing but the objects goes to the output.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use super::client::Tally;
use super::journal::Run;

/// How a step went.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Step {
    /// The step's name.
    pub step: &'static str,
    /// Whether what should happen did.
    pub ok: bool,
    /// The node that it happens to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<&'static str>,
    /// From its beginning (a stop, a kill, a start) until the record was right.
    #[serde(serialize_with = "seconds")]
    pub seconds: Duration,
    /// Where that time went.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// What the record says then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<BTreeSet<IpAddr>>,
    /// What the visitor saw.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub visits: Option<Visits>,
    /// Why it is not ok.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Where the time of a step went. Detect, deliver and record make up the whole.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Split {
    /// From the beginning until a node said that it noticed.
    #[serde(serialize_with = "seconds")]
    pub detect_seconds: Duration,
    /// From there until a handler was started.
    #[serde(serialize_with = "seconds")]
    pub deliver_seconds: Duration,
    /// From there until the record was changed.
    #[serde(serialize_with = "seconds")]
    pub record_seconds: Duration,
    /// How long the handler ran in all, by the host's account.
    #[serde(serialize_with = "seconds")]
    pub handler_seconds: Duration,
    /// The node that ran it.
    pub handler_node: String,
}

impl Split {
    /// How the time from `begin` to `changed` was spent; `None` if no node logged what the run was about.
    pub fn new(begin: SystemTime, run: &Run, changed: SystemTime) -> Option<Self> {
        let noticed = run.noticed?;
        // All are readings of one machine's clock; if it was set back between two of them, none is shown below zero.
        let between = |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap_or_default();
        Some(Self {
            detect_seconds: between(begin, noticed),
            deliver_seconds: between(noticed, run.started),
            record_seconds: between(run.started, changed),
            handler_seconds: run.run,
            handler_node: run.node.clone(),
        })
    }
}

/// What the visitor saw.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Visits {
    /// How many requests.
    pub requests: u64,
    /// How many of them failed.
    pub failures: u64,
    /// See [`Tally::longest_outage`].
    #[serde(serialize_with = "seconds")]
    pub longest_outage_seconds: Duration,
}

impl From<Tally> for Visits {
    fn from(tally: Tally) -> Self {
        let Tally { requests, failures, longest_outage, .. } = tally;
        Self { requests, failures, longest_outage_seconds: longest_outage }
    }
}

/// Seconds with microseconds, which is as exact as the logs are.
fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1e6).round() / 1e6)
}

impl Step {
    /// The step for programs: one line of JSON.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("a step is plain data with text for keys")
    }

    /// The step for people: what it was, how long it took, and where the time went.
    pub fn text(&self, title: &str, colours: Colours) -> String {
        let (mark, colour) = if self.ok { (" ok ", GREEN) } else { ("FAIL", RED) };
        let mut text = format!("{} {:>9.3} s  {title}", colours.paint(colour, mark), self.seconds.as_secs_f64());
        if let Some(addresses) = &self.addresses {
            let list: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
            let _ = write!(text, ": {}", colours.paint(BOLD, &list.join(" ")));
        }
        let mut detail = |line: String| {
            let _ = write!(text, "\n{INDENT}{}", colours.paint(DIM, &line));
        };
        if let Some(split) = &self.split {
            let [detect, deliver, record, handler] =
                [split.detect_seconds, split.deliver_seconds, split.record_seconds, split.handler_seconds]
                    .map(|time| time.as_secs_f64());
            detail(format!("detect {detect:.3} + deliver {deliver:.3} + record changed {record:.3}"));
            detail(format!("handler run {handler:.3} s on {}", split.handler_node));
        }
        if let Some(visits) = &self.visits {
            let outage = visits.longest_outage_seconds.as_secs_f64();
            let (requests, failures) = (visits.requests, visits.failures);
            detail(format!("{requests} requests, {failures} failures, longest outage {outage:.3} s"));
        }
        if let Some(error) = &self.error {
            detail(error.clone());
        }
        text
    }
}

const GREEN: &str = "32";
const RED: &str = "31";
const BOLD: &str = "1";
const DIM: &str = "2";
/// As wide as a line's mark and time.
const INDENT: &str = "                  ";

/// Whether text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// With escape codes.
    On,
    /// As it is.
    Off,
}

impl Colours {
    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::On => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Off => text.into(),
        }
    }
}

/// Where steps are written to, as they happen.
#[derive(Debug)]
pub struct Timeline {
    json: bool,
    /// On a terminal: the step under way is shown.
    live: bool,
    colours: Colours,
}

impl Timeline {
    /// A timeline on standard output, which is asked what it is.
    pub fn new(json: bool) -> Self {
        let live = !json && io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { json, live, colours: if live && !plain { Colours::On } else { Colours::Off } }
    }

    /// Says something to people.
    ///
    /// # Errors
    /// If the output is closed.
    pub fn say(&self, text: &str) -> io::Result<()> {
        if self.json { Ok(()) } else { line(text) }
    }

    /// Says something to people that is not part of the timeline: with `--json`, beside it.
    ///
    /// # Errors
    /// If the output is closed.
    pub fn aside(&self, text: &str) -> io::Result<()> {
        if self.json { writeln!(io::stderr().lock(), "{text}") } else { line(text) }
    }

    /// Shows how long `title` has been under way.
    ///
    /// # Errors
    /// If the output is closed.
    pub fn pending(&self, title: &str, elapsed: Duration) -> io::Result<()> {
        if !self.live {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        let waiting = self.colours.paint(DIM, &format!(" ..  {:>8.1} s   {title}", elapsed.as_secs_f64()));
        write!(out, "\r\x1b[2K{waiting}")?;
        out.flush()
    }

    /// Writes a step that ended.
    ///
    /// # Errors
    /// If the output is closed.
    pub fn ended(&self, title: &str, step: &Step) -> io::Result<()> {
        if self.json {
            return line(&step.json());
        }
        let clear = if self.live { "\r\x1b[2K" } else { "" };
        line(&format!("{clear}{}", step.text(title, self.colours)))
    }

    /// Ends the line of a step that will not end.
    pub fn broken_off(&self) {
        if self.live {
            // On the way out: an output that is closed changes nothing.
            let _ = line("");
        }
    }
}

fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + Duration::from_millis(ms)
    }

    fn killed() -> Step {
        let run =
            Run { node: "web2".into(), noticed: Some(at(5600)), started: at(5601), run: Duration::from_micros(8200) };
        Step {
            step: "node-killed",
            ok: true,
            node: Some("web1"),
            seconds: Duration::from_millis(5608),
            split: Split::new(at(0), &run, at(5608)),
            addresses: Some(["127.0.0.13", "127.0.0.2"].map(|text| text.parse().unwrap()).into()),
            ..Step::default()
        }
    }

    #[test]
    fn a_step_is_one_object() {
        assert_eq!(
            killed().json(),
            concat!(
                r#"{"step":"node-killed","ok":true,"node":"web1","seconds":5.608,"#,
                r#""detect_seconds":5.6,"deliver_seconds":0.001,"record_seconds":0.007,"#,
                r#""handler_seconds":0.0082,"handler_node":"web2","addresses":["127.0.0.2","127.0.0.13"]}"#
            )
        );
        let visits = Visits { requests: 20, failures: 3, longest_outage_seconds: Duration::from_millis(250) };
        let client = Step { step: "client", ok: true, visits: Some(visits), ..Step::default() };
        assert_eq!(
            client.json(),
            r#"{"step":"client","ok":true,"seconds":0.0,"requests":20,"failures":3,"longest_outage_seconds":0.25}"#
        );
        let failed = Step { step: "web-back", error: Some("a \"b\"\nc".into()), ..Step::default() };
        assert_eq!(failed.json(), r#"{"step":"web-back","ok":false,"seconds":0.0,"error":"a \"b\"\nc"}"#);
    }

    #[test]
    fn a_step_is_a_few_lines_to_read() {
        let text = killed().text("web1 killed", Colours::Off);
        assert_eq!(
            text,
            " ok      5.608 s  web1 killed: 127.0.0.2 127.0.0.13\n\
             \x20                 detect 5.600 + deliver 0.001 + record changed 0.007\n\
             \x20                 handler run 0.008 s on web2"
        );
        assert!(killed().text("web1 killed", Colours::On).starts_with("\x1b[32m ok \x1b[0m "));
        let failed = Step { error: Some("no word of it".into()), ..Step::default() }.text("x", Colours::Off);
        assert_eq!(failed, "FAIL     0.000 s  x\n                  no word of it");
    }

    #[test]
    fn the_parts_make_up_the_whole_and_none_is_negative() {
        let split = killed().split.unwrap();
        assert_eq!(split.detect_seconds + split.deliver_seconds + split.record_seconds, Duration::from_millis(5608));
        let run = Run { node: "web1".into(), noticed: Some(at(5)), started: at(4), run: Duration::ZERO };
        assert_eq!(Split::new(at(6), &run, at(7)).unwrap().detect_seconds, Duration::ZERO);
        assert_eq!(Split::new(at(6), &Run { noticed: None, ..run }, at(7)), None);
    }
}
