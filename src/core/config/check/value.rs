//! Values that several sections have: names, durations, counts, addresses, paths. Each is read with its range and a
//! remedy.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::super::error::{Findings, Reported};
use super::super::raw::{Table, Text, wrong_type};
use crate::name::NameError;
use crate::policy::{host_name_problem, quoted};

/// Longest path that is taken, in bytes; the system's own limit.
const MAX_PATH: usize = 4095;

/// The units of durations, from the longest, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// The name at `key`.
pub(super) fn name<T: FromStr<Err = NameError>>(
    table: &Table<'_>,
    key: &str,
    example: &str,
    findings: &mut Findings,
) -> Result<T, Reported> {
    let text = table.required(key, example, findings)?;
    parse_name(key, &text, findings)
}

/// `text`, found at `key`, as a name.
pub(super) fn parse_name<T: FromStr<Err = NameError>>(
    key: &str,
    text: &Text<'_>,
    findings: &mut Findings,
) -> Result<T, Reported> {
    text.get_ref().parse().map_err(|error: NameError| {
        let message = format!("`{key}` is no name: {error}");
        findings.report(text.span(), message, "use a short name such as \"web1\" or \"shop.example\"")
    })
}

/// The duration at `key`, or `default`.
pub(super) fn duration(
    table: &Table<'_>,
    key: &str,
    default: Duration,
    range: RangeInclusive<Duration>,
    findings: &mut Findings,
) -> Result<Duration, Reported> {
    let Some(value) = table.get(key) else { return Ok(default) };
    read_duration(key, value, default, range, &format!("; the default is {}", Spoken(default)), findings)
}

/// The duration at `key`, which has to be there and is not the same for everybody; `example` is one.
pub(super) fn required_duration(
    table: &Table<'_>,
    key: &str,
    example: Duration,
    range: RangeInclusive<Duration>,
    findings: &mut Findings,
) -> Result<Duration, Reported> {
    let Some(value) = table.get(key) else {
        return Err(table.missing(key, &format!("\"{}\"", Spoken(example)), findings));
    };
    read_duration(key, value, example, range, "", findings)
}

fn read_duration(
    key: &str,
    value: &Spanned<DeValue<'_>>,
    example: Duration,
    range: RangeInclusive<Duration>,
    more: &str,
    findings: &mut Findings,
) -> Result<Duration, Reported> {
    let (from, to) = (Spoken(*range.start()), Spoken(*range.end()));
    let text = match value.get_ref() {
        DeValue::String(text) => text.as_ref(),
        DeValue::Integer(_) | DeValue::Float(_) => {
            let help = format!("say which unit, in quotes: {key} = \"{}\"", Spoken(example));
            return Err(findings.report(value.span(), format!("`{key}` is a number without a unit"), help));
        }
        _ => {
            let help = format!("write a duration with its unit, such as {key} = \"{}\"", Spoken(example));
            return Err(wrong_type(key, value, "a duration", &help, findings));
        }
    };
    let Some(duration) = parse_duration(text) else {
        let message = format!("`{key}` is no duration: \"{}\"", quoted(text));
        let help = "write whole numbers with d, h, m, s or ms, the longer unit first: \"500ms\", \"5s\", \"1m30s\"";
        return Err(findings.report(value.span(), message, help));
    };
    if range.contains(&duration) {
        Ok(duration)
    } else {
        let message = format!("`{key}` is out of range: {}", Spoken(duration));
        Err(findings.report(value.span(), message, format!("take {from} to {to}{more}")))
    }
}

/// A duration as the config writes it: whole numbers with units, each unit once, the longer one first.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (digits, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (unit, after) = tail.split_at(tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len()));
        let (_, each) = units.find(|(name, _)| *name == unit)?;
        let milliseconds = digits.parse::<u64>().ok()?.checked_mul(*each)?;
        total = total.checked_add(Duration::from_millis(milliseconds))?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

/// A duration in the config's notation.
#[derive(Clone, Copy, Debug)]
pub struct Spoken(pub Duration);

impl fmt::Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_millis();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, each) in UNITS {
            let count = rest / u128::from(each);
            rest %= u128::from(each);
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

/// The count at `key`, or `default`.
pub(super) fn count(
    table: &Table<'_>,
    key: &str,
    default: u32,
    range: RangeInclusive<u32>,
    findings: &mut Findings,
) -> Result<u32, Reported> {
    let Some(value) = table.integer(key, findings)? else { return Ok(default) };
    u32::try_from(*value.get_ref()).ok().filter(|count| range.contains(count)).ok_or_else(|| {
        let help = format!("take {} to {}; the default is {default}", range.start(), range.end());
        findings.report(value.span(), format!("`{key}` is out of range: {}", value.get_ref()), help)
    })
}

/// The part of a whole at `key`, from 0 to 1.
pub(super) fn ratio(table: &Table<'_>, key: &str, default: f64, findings: &mut Findings) -> Result<f64, Reported> {
    let Some(value) = table.get(key) else { return Ok(default) };
    let number = match value.get_ref() {
        DeValue::Float(number) => number.as_str().parse().ok(),
        DeValue::Integer(number) => number.as_str().parse().ok(),
        _ => return Err(wrong_type(key, value, "a number", &format!("write {key} = {default:?}"), findings)),
    };
    number.filter(|number| (0.0..=1.0).contains(number)).ok_or_else(|| {
        let help = format!("take 0 to 1; the default is {default:?}");
        findings.report(value.span(), format!("`{key}` is out of range"), help)
    })
}

/// The path at `key`, as it is written.
pub(super) fn path(table: &Table<'_>, key: &str, findings: &mut Findings) -> Result<Option<PathBuf>, Reported> {
    table.text(key, findings)?.map(|text| parse_path(key, &text, text.get_ref(), MAX_PATH, findings)).transpose()
}

/// `path`, found inside of `text` at `key`, as a path of at most `limit` bytes.
pub(super) fn parse_path(
    key: &str,
    text: &Text<'_>,
    path: &str,
    limit: usize,
    findings: &mut Findings,
) -> Result<PathBuf, Reported> {
    let mut report = |message: String, help: &str| Err(findings.report(text.span(), message, help));
    if path.is_empty() {
        return report(format!("`{key}` has an empty path"), "write a path, or leave the key out where it may be");
    }
    if path.contains('\0') {
        return report(format!("`{key}` has a zero byte in its path"), "leave it out: no file's name has one");
    }
    if path.len() > limit {
        let message = format!("`{key}` has a path of {} bytes, the system takes {limit}", path.len());
        return report(message, "choose a shorter path");
    }
    Ok(PathBuf::from(path))
}

/// `text`, found at `key`, as an address and port. Port 0 passes; what else is wrong with the address does not.
pub(super) fn socket_address(key: &str, text: &Text<'_>, findings: &mut Findings) -> Result<SocketAddr, Reported> {
    let written = *text.get_ref();
    written.parse().map_err(|_| {
        let help = match written.parse::<IpAddr>() {
            Ok(address) => format!("add a port: \"{}\"", SocketAddr::new(address, super::DEFAULT_PORT)),
            Err(_) => {
                "write an IP address and a port, such as \"203.0.113.5:7946\" or \"[2001:db8::5]:7946\"".to_owned()
            }
        };
        findings.report(text.span(), format!("`{key}` is no address with a port: \"{}\"", quoted(written)), help)
    })
}

/// Whether a resolver would look `host` up. A last label of digits alone is a mistyped address to every one of them.
pub(super) fn is_resolvable(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    host_name_problem(host).is_none() && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// Why `address` is none that anybody could dial, if it is not, and what to write instead.
pub(super) fn not_dialable(address: IpAddr) -> Option<(&'static str, String)> {
    const ONE: &str = "write one machine's own address";
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    let mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    if address.is_unspecified() {
        Some(("the unspecified address", ONE.into()))
    } else if address.is_multicast() {
        Some(("a multicast address", ONE.into()))
    } else if broadcast {
        Some(("the broadcast address", ONE.into()))
    } else if mapped {
        Some(("an IPv4 address in IPv6 form", format!("write the address as {}", address.to_canonical())))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_spoken() {
        let cases = [
            ("500ms", 500, "500ms"),
            ("5s", 5000, "5s"),
            ("5m", 300_000, "5m"),
            ("72h", 259_200_000, "3d"),
            ("1m30s", 90_000, "1m30s"),
            ("1d2h3m4s5ms", 93_784_005, "1d2h3m4s5ms"),
            ("90s", 90_000, "1m30s"),
            ("0s", 0, "0s"),
        ];
        for (text, milliseconds, spoken) in cases {
            let duration = parse_duration(text).expect(text);
            assert_eq!((duration.as_millis(), Spoken(duration).to_string().as_str()), (milliseconds, spoken), "{text}");
        }
        let bad =
            ["", "5", "s", "5 s", " 5s", "5s ", "-5s", "+5s", "1.5s", "5S", "5sec", "30s1m", "1s1s", "5s5", "5µs"];
        for text in bad.into_iter().chain(["18446744073709551615d", "99999999999999999999s", "5\u{0660}s"]) {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
