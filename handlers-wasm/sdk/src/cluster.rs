//! The cluster as the host shows it to this run: one snapshot, the same for every call.
//!
//! Adds two things to the generated functions: which application to publish, and its wanted addresses as addresses.

pub use crate::bindings::picored::handler::cluster::{
    Endpoint, EndpointSet, Member, apps, endpoints, members, node, revision,
};
use crate::{Failure, config, record::Wanted};

/// The application to publish: the one that the config names under `key`, else the only one that the handler sees.
pub fn app(key: &str) -> Result<String, Failure> {
    choose(key, config::optional(key)?, apps())
}

/// The addresses to publish for `app`.
pub fn wanted(app: &str) -> Result<Wanted, Failure> {
    let set = endpoints(app).map_err(|reason| Failure::Retry(format!("application `{app}`: {reason}")))?;
    Wanted::from_endpoints(&set)
}

fn choose(key: &str, configured: Option<String>, mut seen: Vec<String>) -> Result<String, Failure> {
    match configured {
        Some(app) if seen.contains(&app) => Ok(app),
        Some(app) => Err(config::invalid(
            key,
            format_args!("this handler does not see application `{app}`; it sees {}", list(&seen)),
        )),
        None if seen.len() == 1 => Ok(seen.remove(0)),
        None if seen.is_empty() => {
            Err(Failure::Permanent("this handler sees no application: grant it one".to_string()))
        }
        None => Err(config::invalid(key, format_args!("is needed, since this handler sees {}", list(&seen)))),
    }
}

fn list(apps: &[String]) -> String {
    if apps.is_empty() {
        return "none".to_string();
    }
    apps.iter().map(|app| format!("`{app}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(configured: Option<&str>, seen: &[&str]) -> Result<String, String> {
        choose("app", configured.map(str::to_string), seen.iter().map(|app| app.to_string()).collect()).map_err(
            |failure| match failure {
                Failure::Permanent(reason) => reason,
                other => panic!("not for good: {other:?}"),
            },
        )
    }

    #[test]
    fn the_configured_application_is_taken_if_it_is_seen() {
        assert_eq!(chosen(Some("api"), &["api", "www"]), Ok("api".to_string()));
        let problem = "config key `app`: this handler does not see application `db`; it sees `api`, `www`";
        assert_eq!(chosen(Some("db"), &["api", "www"]), Err(problem.to_string()));
        let problem = "config key `app`: this handler does not see application `db`; it sees none";
        assert_eq!(chosen(Some("db"), &[]), Err(problem.to_string()));
    }

    #[test]
    fn without_config_there_must_be_just_one() {
        assert_eq!(chosen(None, &["www"]), Ok("www".to_string()));
        let problem = "config key `app`: is needed, since this handler sees `api`, `www`";
        assert_eq!(chosen(None, &["api", "www"]), Err(problem.to_string()));
        assert_eq!(chosen(None, &[]), Err("this handler sees no application: grant it one".to_string()));
    }
}
