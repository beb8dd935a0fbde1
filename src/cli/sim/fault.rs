//! How `picored sim` is told what goes wrong: `1@30s`, `1@30s..50s`, `2|3@60s..120s`, and shares and hours.

use std::time::Duration;

use picored_core::config::parse_duration;
use picored_sim::{Fault, FaultKind};

/// How much longer each datagram of a slow node takes.
const SLOW_BY: Duration = Duration::from_secs(3);
/// Nobody waits for more.
const MAX_HOURS: f64 = 10_000.0;

/// `10%`, `0.5%`.
pub(super) fn parse_share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
    let percent = number.filter(|number| (0.0..=100.0).contains(number));
    percent.map(|percent| percent / 100.0).ok_or_else(|| "write a percentage from 0% to 100%, such as 10%".into())
}

/// `10`, `0.5`.
pub(super) fn parse_hours(text: &str) -> Result<Duration, String> {
    let hours = text.parse::<f64>().ok().filter(|hours| (0.001..=MAX_HOURS).contains(hours));
    hours
        .map(|hours| Duration::from_millis((hours * 3_600_000.0) as u64))
        .ok_or_else(|| format!("write a number of hours from 0.001 to {MAX_HOURS}, such as 10 or 0.5"))
}

pub(super) fn parse_kill(text: &str) -> Result<Fault, String> {
    of_a_node(text, FaultKind::Kill)
}

pub(super) fn parse_pause(text: &str) -> Result<Fault, String> {
    of_a_node(text, FaultKind::Pause)
}

pub(super) fn parse_slow(text: &str) -> Result<Fault, String> {
    of_a_node(text, |machine| FaultKind::Slow(machine, SLOW_BY))
}

pub(super) fn parse_partition(text: &str) -> Result<Fault, String> {
    let (groups, from, until) = parse(text, "'2|3@60s..120s'")?;
    let sizes: Option<Vec<usize>> = groups.split('|').map(|size| size.parse().ok().filter(|size| *size > 0)).collect();
    let sizes = sizes.filter(|sizes| sizes.len() > 1);
    let sizes = sizes.ok_or("write how many nodes each group has, from 1, such as '2|3@60s..120s'")?;
    Ok(Fault { from, until, kind: FaultKind::Partition(sizes) })
}

fn of_a_node(text: &str, kind: impl Fn(usize) -> FaultKind) -> Result<Fault, String> {
    let (node, from, until) = parse(text, "1@30s or 1@30s..50s")?;
    let machine = node.parse::<usize>().ok().and_then(|node| node.checked_sub(1));
    let machine = machine.ok_or("write which node, counted from 1, such as 1@30s")?;
    Ok(Fault { from, until, kind: kind(machine) })
}

/// What stands before the `@`, and the times after it.
fn parse<'a>(text: &'a str, example: &str) -> Result<(&'a str, Duration, Option<Duration>), String> {
    let (what, times) = text.split_once('@').ok_or_else(|| format!("write when, such as {example}"))?;
    let time = |text: &str| {
        parse_duration(text)
            .ok_or_else(|| format!("\"{text}\" is no duration: write it with its unit, such as {example}"))
    };
    match times.split_once("..") {
        Some((from, until)) => Ok((what, time(from)?, Some(time(until)?))),
        None => Ok((what, time(times)?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn faults_are_read_as_they_are_written() {
        let fault = |from, until: Option<u64>, kind| Fault { from: secs(from), until: until.map(secs), kind };
        assert_eq!(parse_kill("1@30s"), Ok(fault(30, None, FaultKind::Kill(0))));
        assert_eq!(parse_kill("12@1m30s..2m"), Ok(fault(90, Some(120), FaultKind::Kill(11))));
        assert_eq!(parse_pause("2@1h..2h"), Ok(fault(3600, Some(7200), FaultKind::Pause(1))));
        assert_eq!(parse_slow("3@0s"), Ok(fault(0, None, FaultKind::Slow(2, SLOW_BY))));
        assert_eq!(parse_partition("2|3@60s..120s"), Ok(fault(60, Some(120), FaultKind::Partition(vec![2, 3]))));
    }

    #[test]
    fn mistakes_are_told_with_an_example() {
        for text in ["", "1", "@30s", "0@30s", "x@30s", "1@", "1@30", "1@30s..", "1@..30s", "1@30s...40s", "-1@30s"] {
            assert!(parse_kill(text).unwrap_err().contains("such as 1@30s"), "{text}");
        }
        for text in ["5@30s", "2|0@30s", "|@30s", "2|x@30s", "2|3"] {
            assert!(parse_partition(text).unwrap_err().contains("'2|3@60s..120s'"), "{text}");
        }
    }

    #[test]
    fn shares_and_hours_have_their_ranges() {
        assert_eq!((parse_share("10%"), parse_share("0.5%"), parse_share("100%")), (Ok(0.1), Ok(0.005), Ok(1.0)));
        assert!(["10", "101%", "-1%", "x%", "%", "NaN%"].iter().all(|text| parse_share(text).is_err()));
        assert_eq!((parse_hours("10"), parse_hours("0.5")), (Ok(secs(36_000)), Ok(secs(1800))));
        assert!(["0", "-1", "1h", "inf", "NaN", "10001"].iter().all(|text| parse_hours(text).is_err()));
    }
}
