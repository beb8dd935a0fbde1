//! Domain names, as configs and providers write them, in the one form in which they are compared.
//!
//! Never resolves a name. Called by the handlers that keep a DNS record.

use crate::{Failure, config};

/// A name in lower case and with the final dot.
pub fn canonical(name: &str) -> String {
    format!("{}.", name.trim().trim_end_matches('.').to_ascii_lowercase())
}

/// The zone and the full name of a record in it, both [canonical]. One that lies elsewhere is refused, since many
/// providers would add their zone's name to it.
pub fn in_zone(zone: &str, record: &str) -> Result<(String, String), Failure> {
    let (zone, record) = (canonical(zone), canonical(record));
    if !record.is_ascii() {
        return Err(config::invalid("record", format_args!("`{record}` is not ASCII: write it in Punycode (xn--...)")));
    }
    let inside = record.strip_suffix(zone.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if zone == "." || !inside {
        let problem = format!("`{record}` does not lie in zone `{zone}`: write the full name");
        return Err(config::invalid("record", problem));
    }
    Ok((zone, record))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_must_lie_in_its_zone() {
        for (zone, record) in
            [("example.org", "example.org."), ("Example.org.", "a.b.example.ORG"), ("org", "example.org")]
        {
            assert_eq!(in_zone(zone, record).unwrap(), (canonical(zone), canonical(record)));
        }
        for (zone, record) in [
            ("example.org", "www"),
            ("example.org", "www.notexample.org"),
            ("example.org", "org"),
            (".", "a."),
            ("", "a."),
        ] {
            let Err(Failure::Permanent(reason)) = in_zone(zone, record) else { panic!("{record} in {zone}") };
            assert!(
                reason.starts_with("config key `record`: `") && reason.ends_with("write the full name"),
                "{reason}"
            );
        }
    }

    #[test]
    fn a_name_is_compared_as_it_stands_in_the_zone() {
        let Err(Failure::Permanent(reason)) = in_zone("exämple.org", "www.exämple.org") else { panic!("taken") };
        let words = "`www.exämple.org.` is not ASCII: write it in Punycode (xn--...)";
        assert_eq!(reason, format!("config key `record`: {words}"));
    }
}
