//! The log: one line an event on standard output, as text for people or as JSON for programs.
//!
//! Set up once by `picored run`; all others use `tracing`. Much of what is logged was said by somebody else (a handler,
//! a server, a peer), so nothing that is logged can begin a second line or move a terminal's cursor: what cannot be
//! printed is spelled as an escape. Each line is written at once, and a log that nobody reads any more stops nothing.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::IsTerminal;

use picored_core::time::Wall;
use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `2026-01-31T12:00:00.000Z INFO  message name=value`, for people; in colour on a terminal.
    #[default]
    Text,
    /// One JSON object a line: `timestamp`, `level`, `message`, the event's fields, `target`.
    Json,
}

/// The least severe kind of events that is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[expect(missing_docs, reason = "the names say all there is")]
pub enum MinLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl From<MinLevel> for Level {
    fn from(level: MinLevel) -> Self {
        match level {
            MinLevel::Error => Self::ERROR,
            MinLevel::Warn => Self::WARN,
            MinLevel::Info => Self::INFO,
            MinLevel::Debug => Self::DEBUG,
            MinLevel::Trace => Self::TRACE,
        }
    }
}

/// Sends this process's events to standard output from now on.
///
/// # Errors
/// If it was done before.
pub fn init(format: Format, level: MinLevel) -> Result<(), tracing::dispatcher::SetGlobalDefaultError> {
    // https://no-color.org
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = !plain && std::io::stdout().is_terminal();
    tracing::dispatcher::set_global_default(dispatch(format, level, colour, std::io::stdout))
}

fn dispatch<W>(format: Format, level: MinLevel, colour: bool, writer: W) -> Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_max_level(Level::from(level))
        .with_writer(writer)
        .with_ansi(colour)
        // Where the log cannot be written, there is nobody to tell.
        .log_internal_errors(false);
    match format {
        Format::Text => builder.event_format(Text).into(),
        Format::Json => {
            builder.json().flatten_event(true).with_current_span(false).with_span_list(false).finish().into()
        }
    }
}

/// `text` with everything that a terminal would not simply print (control characters, line ends, marks that turn the
/// direction of writing) spelled as Rust does: `\n`, `\u{1b}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_printable) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_printable(c) {
            safe.push(c);
        } else {
            safe.extend(c.escape_debug());
        }
    }
    Cow::Owned(safe)
}

/// Quotes and backslashes apart, what Rust's `{:?}` spells out is what cannot be printed.
fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~') || c.escape_debug().len() == 1
}

/// The text format.
struct Text;

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let (dim, bold, off) = if writer.has_ansi_escapes() { ("\x1b[2m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
        let level = *event.metadata().level();
        let colour = match level {
            _ if off.is_empty() => "",
            Level::ERROR => "\x1b[31m",
            Level::WARN => "\x1b[33m",
            Level::INFO => "\x1b[32m",
            _ => "\x1b[34m",
        };
        let mut line = Line::default();
        event.record(&mut line);
        let time = now().rfc3339();
        write!(writer, "{dim}{time}{off} {colour}{level:<5}{off} {bold}{}{off}", printable(&line.message))?;
        for (name, value) in &line.fields {
            write!(writer, " {dim}{name}={off}{}", quoted(value))?;
        }
        writeln!(writer)
    }
}

fn now() -> Wall {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// An event's parts, in the order they were given.
#[derive(Default)]
struct Line {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // A value that cannot show itself is shown as far as it came.
        let _ = write!(text, "{value:?}");
        self.record_str(field, &text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.fields.push((field.name(), value.to_owned()));
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let causes = std::iter::successors(value.source(), |cause| cause.source());
        let text = causes.fold(value.to_string(), |text, cause| format!("{text}: {cause}"));
        self.record_str(field, &text);
    }
}

/// A value as it is, or in quotes where its end would else be unclear.
fn quoted(value: &str) -> Cow<'_, str> {
    let clear = |c: char| is_printable(c) && !matches!(c, ' ' | '"' | '=' | '\\');
    if !value.is_empty() && value.chars().all(clear) {
        return Cow::Borrowed(value);
    }
    Cow::Owned(format!("\"{}\"", printable(&value.replace('\\', "\\\\").replace('"', "\\\""))))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What `events` leave in a log of this format.
    fn logged(format: Format, level: MinLevel, colour: bool, events: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        tracing::dispatcher::with_default(&dispatch(format, level, colour, move || writer.clone()), events);
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    /// Tries to end the line, to clear the screen, to write backwards.
    const HOSTILE: &str = "a\nERROR forged\r\x1b[2J\u{9b}2J\u{7f}\u{202e}\u{2028}\0\"=\\";

    #[test]
    fn text_has_time_level_message_and_fields() {
        let text = logged(Format::Text, MinLevel::Info, false, || {
            tracing::warn!(node = "web1", seconds = 1.5, path = %"/a b", empty = "", known = ?Some(3), "Grüße, \"you\"");
        });
        let (time, rest) = text.split_once(' ').unwrap();
        assert_eq!(rest, "WARN  Grüße, \"you\" node=web1 seconds=1.5 path=\"/a b\" empty=\"\" known=Some(3)\n");
        assert!(time.len() == 24 && time.starts_with("20") && time.ends_with('Z'), "{time}");
    }

    #[test]
    fn foreign_text_stays_in_its_line() {
        for colour in [false, true] {
            let text = logged(Format::Text, MinLevel::Info, colour, || {
                tracing::info!(said = HOSTILE, shown = %HOSTILE, debug = ?HOSTILE, "{HOSTILE}");
            });
            assert_eq!(text.matches('\n').count(), 1, "{text:?}");
            let own = ["\x1b[2m", "\x1b[1m", "\x1b[0m", "\x1b[32m"];
            let foreign = own.iter().fold(text.clone(), |text, sequence| text.replace(sequence, ""));
            assert_eq!(foreign.trim_end_matches('\n'), printable(foreign.trim_end_matches('\n')));
            assert!(foreign.contains(r"a\nERROR forged\r\u{1b}[2J\u{9b}2J\u{7f}\u{202e}\u{2028}\0"), "{foreign}");
            assert_eq!(text.contains('\x1b'), colour);
        }
        let json = logged(Format::Json, MinLevel::Info, false, || tracing::info!(said = HOSTILE, "{HOSTILE}"));
        assert_eq!(json.matches(['\n', '\r', '\x1b', '\0']).count(), 1, "{json:?}");
    }

    #[test]
    fn quoted_values_read_back() {
        for (value, expected) in [("a\\nb", r#""a\\nb""#), ("a\nb", r#""a\nb""#), ("\"", r#""\"""#), ("x=y", "\"x=y\"")]
        {
            assert_eq!(quoted(value), expected);
        }
    }

    #[test]
    fn json_is_one_flat_object_a_line() {
        let text = logged(Format::Json, MinLevel::Info, true, || {
            tracing::info!(member = "web2", took_ms = 12_u64, share = 0.5, done = true, said = HOSTILE, "member up");
            tracing::error!("second");
        });
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        let time = lines[0]["timestamp"].as_str().unwrap();
        assert!(time.len() == "2026-01-31T12:00:00.000000Z".len() && time.ends_with('Z'), "{time}");
        let mut first = lines[0].clone();
        first.as_object_mut().unwrap().remove("timestamp");
        assert_eq!(
            first,
            serde_json::json!({
                "level": "INFO", "message": "member up", "member": "web2", "took_ms": 12, "share": 0.5, "done": true,
                "said": HOSTILE, "target": "picored::log::tests",
            })
        );
        assert_eq!(lines[1]["level"], "ERROR");
    }

    #[test]
    fn level_is_a_floor() {
        let all = [MinLevel::Error, MinLevel::Warn, MinLevel::Info, MinLevel::Debug, MinLevel::Trace];
        for (index, level) in all.into_iter().enumerate() {
            let text = logged(Format::Text, level, false, || {
                tracing::error!("e");
                tracing::warn!("w");
                tracing::info!("i");
                tracing::debug!("d");
                tracing::trace!("t");
            });
            assert_eq!(text.lines().count(), index + 1, "{text}");
        }
    }

    #[test]
    fn errors_are_told_with_their_causes() {
        let cause = "x".parse::<u8>().unwrap_err();
        let error = anyhow::Error::new(cause).context("no number");
        let text = logged(Format::Text, MinLevel::Info, false, || {
            tracing::error!(error = &*error as &(dyn std::error::Error + 'static), "no");
        });
        assert!(text.ends_with("no error=\"no number: invalid digit found in string\"\n"), "{text}");
    }
}
