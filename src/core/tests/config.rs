//! The configs in `tests/config`: each invalid one has exactly the mistakes that its first lines expect, each valid one
//! is taken, and the sample gives the values that it says.
#![allow(
    clippy::disallowed_methods,
    reason = "the core reads no files, its tests read the configs that they are about"
)]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use picored_core::config::{
    Check, CheckMethod, Config, ExecCheck, MAX_TEXT_LEN, Profile, RunOn, Seed, Source, TcpCheck, Trust,
};
use picored_core::event::EventKind;
use picored_core::policy::{AuthScheme, Grant};

/// The configs of one folder, by name.
fn configs(folder: &str) -> Vec<(String, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/config").join(folder);
    let mut configs: Vec<(String, String)> = fs::read_dir(&folder)
        .expect("the folder of configs is there")
        .map(|entry| entry.expect("the folder can be listed").path())
        .map(|path| {
            (
                path.file_name().expect("a file has a name").to_string_lossy().into(),
                fs::read_to_string(&path).expect("a config is text"),
            )
        })
        .collect();
    configs.sort();
    configs
}

#[test]
fn two_nodes_are_told_what_it_means() {
    let advice = |cluster: &str| {
        let text = format!("[node]\nname = \"a\"\nbind = \"127.0.0.1:1\"\n[cluster]\nname = \"c\"\n{cluster}");
        Config::parse(&text).unwrap().advice().is_some()
    };
    for two in ["seeds = [\"127.0.0.1:2\"]", "seeds = [\"127.0.0.1:1\", \"127.0.0.1:2\"]", "expect = 2"] {
        assert!(advice(two), "{two}");
        assert!(!advice(&format!("{two}\ntwo_node = \"trust-survivor\"")), "{two}");
    }
    for other in
        ["", "expect = 3", "seeds = [\"127.0.0.1:2\"]\nexpect = 3", "seeds = [\"127.0.0.1:2\", \"127.0.0.1:3\"]"]
    {
        assert!(!advice(other), "{other}");
    }
}

#[test]
fn invalid_configs_have_the_mistakes_that_they_expect() {
    let configs = configs("invalid");
    assert!(configs.len() >= 30, "{} configs", configs.len());
    let mut wrong = String::new();
    for (name, text) in configs {
        let mut expected: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("# expect: ")).collect();
        assert!(!expected.is_empty(), "{name} expects nothing");
        let Err(errors) = Config::parse(&text) else {
            wrong += &format!("{name}: taken\n");
            continue;
        };
        for error in &errors {
            let found = format!("{}:{}: {}", error.line, error.column, error.message);
            let hit = expected.iter().position(|expected| {
                let (place, part) = expected.split_once(": ").expect("an expectation is `line:column: part`");
                assert!(!part.is_empty(), "{name} expects any message");
                found.starts_with(&format!("{place}: ")) && error.message.contains(part)
            });
            match hit {
                Some(index) => drop(expected.remove(index)),
                None => wrong += &format!("{name}: unexpected {found}\n"),
            }
            let shown = error.to_string();
            let lines: Vec<&str> = shown.lines().collect();
            let sound = lines.len() == 4
                && lines[0] == format!("line {}, column {}: {}", error.line, error.column, error.message)
                && lines[2].trim_start().starts_with('|')
                && lines[2].contains('^')
                && lines[3].len() > "help: ".len()
                && lines.iter().all(|line| line.chars().count() <= 400);
            if !sound {
                wrong += &format!("{name}: badly shown:\n{shown}\n");
            }
        }
        for missed in expected {
            wrong += &format!("{name}: missed {missed}\n");
        }
        let places: Vec<(usize, usize)> = errors.iter().map(|error| (error.line, error.column)).collect();
        assert!(places.is_sorted(), "{name}: {places:?}");
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn valid_configs_are_taken() {
    let configs = configs("valid");
    assert!(configs.len() >= 4, "{} configs", configs.len());
    for (name, text) in configs {
        if let Err(errors) = Config::parse(&text) {
            panic!("{name}:\n{errors}");
        }
    }
}

fn valid(name: &str) -> Config {
    let (_, text) = configs("valid").into_iter().find(|(file, _)| file == name).expect("it is there");
    Config::parse(&text).expect("it is valid")
}

#[test]
fn the_sample_gives_its_values() {
    let config = valid("sample.toml");
    assert_eq!(config.node.name.as_str(), "web1");
    assert_eq!(config.node.bind.to_string(), "0.0.0.0:7946");
    assert_eq!(config.node.advertise.map(|address| address.to_string()).as_deref(), Some("203.0.113.5:7946"));
    assert_eq!(config.node.state_dir, PathBuf::from("/srv/picored"));
    assert_eq!(config.node.admin_socket, PathBuf::from("picored.sock"));
    assert_eq!(config.cluster.name.as_str(), "example");
    let seeds = [Seed::Address("203.0.113.6:7946".parse().unwrap()), Seed::Name("seeds.example.org".into(), 7946)];
    assert_eq!(config.cluster.seeds, seeds);
    assert_eq!(config.cluster.key_file, Some(PathBuf::from("/etc/picored/key")));
    assert_eq!(config.cluster.profile, Profile::Wan);

    let [app, shop, database] = &config.apps[..] else { panic!("{:?}", config.apps) };
    assert_eq!(app.name.as_str(), "www");
    assert_eq!(app.publish, ["203.0.113.5".parse::<std::net::IpAddr>().unwrap(), "2001:db8::5".parse().unwrap()]);
    let Check::Http(check) = &app.check else { panic!("{:?}", app.check) };
    assert_eq!(check.url.as_str(), "http://127.0.0.1:8080/health");
    assert_eq!((check.method, check.headers.len(), &check.tls), (CheckMethod::Get, 0, &None));
    assert_eq!(check.expect_status, [(200, 299), (304, 304)]);
    assert_eq!(check.expect_body.as_deref(), Some("OK"));
    assert_eq!((app.interval, app.timeout), (Duration::from_secs(90), Duration::from_millis(500)));
    assert_eq!((app.rise, app.fall), (1, 5));

    let Check::Http(check) = &shop.check else { panic!("{:?}", shop.check) };
    assert_eq!(check.url.as_str(), "https://127.0.0.1/health");
    assert_eq!(check.method, CheckMethod::Head);
    let headers = [("host", "shop.example.org"), ("x-check", "picored")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    assert_eq!(check.headers, headers);
    let tls = check.tls.as_ref().expect("it is https");
    assert_eq!(tls.server_name, url::Host::Domain("shop.example.org".to_owned()));
    assert_eq!(tls.trust, Trust::CaFile("/etc/picored/ca.pem".into()));
    assert_eq!(shop.check.port(), 443);
    assert_eq!(database.check, Check::Tcp(TcpCheck { host: "::1".into(), port: 5432 }));

    let [handler] = &config.handlers[..] else { panic!("{:?}", config.handlers) };
    assert_eq!(handler.name.as_str(), "dns");
    assert_eq!(handler.source, Source::Builtin("dns-powerdns".into()));
    assert_eq!(handler.on, [EventKind::MemberDown, EventKind::AppUp, EventKind::AppDown, EventKind::Reconcile]);
    assert_eq!(handler.apps.iter().map(|app| app.as_str()).collect::<Vec<_>>(), ["www", "shop-*"]);
    assert_eq!(handler.run_on, RunOn::Every);
    assert_eq!((handler.reconcile_every, handler.timeout), (Duration::from_secs(600), Duration::from_secs(20)));
    let settings: Vec<(&str, &str)> =
        handler.config.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let expected = [
        ("api", "http://127.0.0.1:8081"),
        ("at", "2026-01-02"),
        ("dry run", "false"),
        ("ratio", "0.50"),
        ("ttl", "30"),
        ("zone", "example.org."),
    ];
    assert_eq!(settings, expected);
    let [grant, bearer, basic, path, hmac] = &handler.http[..] else { panic!("{:?}", handler.http) };
    assert_eq!(grant.origin.to_string(), "http://127.0.0.1:8081");
    assert_eq!(grant.methods.iter().map(|method| method.as_str()).collect::<Vec<_>>(), ["GET", "PATCH"]);
    assert_eq!(
        grant.paths.iter().map(|path| path.as_str()).collect::<Vec<_>>(),
        ["/api/v1/servers/localhost/zones/example.org."]
    );
    assert_eq!(grant.allow_private.iter().map(|range| range.to_string()).collect::<Vec<_>>(), ["127.0.0.1/32"]);
    let auth = |grant: &Grant| grant.auth.clone().map(|auth| (auth.scheme, auth.secret.to_string()));
    let header = AuthScheme::Header { header: "x-api-key".into() };
    assert_eq!(auth(grant), Some((header, "pdns".into())));
    assert_eq!(auth(bearer), Some((AuthScheme::Bearer, "token".into())));
    assert_eq!(auth(basic), Some((AuthScheme::Basic { user: "web".into() }, "token".into())));
    assert_eq!(auth(path), Some((AuthScheme::Path, "token".into())));
    assert_eq!(path.paths[0].to_string(), "/bot{secret}/sendMessage");
    let signed = AuthScheme::HmacSha256Header { header: "x-hub-signature-256".into() };
    assert_eq!(auth(hmac), Some((signed, "hook".into())));
    let places: Vec<_> = config.secrets.iter().map(|(name, place)| format!("{name}: {place}")).collect();
    let expected = [
        "hook: the credential hook",
        "pdns: the file /etc/picored/pdns.key",
        "token: the environment variable CHAT_TOKEN",
    ];
    assert_eq!(places, expected);
}

#[test]
fn each_profile_is_taken_by_its_name() {
    let (_, written) = configs("valid").into_iter().find(|(name, _)| name == "sample.toml").expect("the sample");
    for (name, profile) in Profile::NAMES {
        let text = written.replace("profile = \"wan\"", &format!("profile = \"{name}\""));
        assert!(text.contains(name));
        assert_eq!(Config::parse(&text).expect("a valid config").cluster.profile, profile, "{name}");
    }
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = valid("least.toml");
    assert_eq!(config.node.bind.to_string(), "0.0.0.0:7946");
    assert_eq!(config.node.state_dir, PathBuf::from("/var/lib/picored"));
    assert_eq!(config.node.admin_socket, PathBuf::from("/run/picored/picored.sock"));
    assert_eq!((config.cluster.seeds.len(), config.cluster.profile), (0, Profile::Lan));
    let app = &config.apps[0];
    assert_eq!((app.interval, app.timeout), (Duration::from_secs(5), Duration::from_secs(2)));
    assert_eq!((app.rise, app.fall), (2, 3));
    let Check::Http(check) = &app.check else { panic!("{:?}", app.check) };
    assert_eq!((&check.expect_status[..], &check.expect_body), (&[(200, 399)][..], &None));
    let handler = &config.handlers[0];
    assert_eq!(handler.on, EventKind::ALL);
    assert!(handler.apps.is_empty() && handler.config.is_empty());
    assert_eq!((handler.reconcile_every, handler.timeout), (Duration::from_secs(300), Duration::from_secs(10)));
    let grant = &handler.http[0];
    assert_eq!((grant.methods[0].as_str(), grant.paths[0].as_str()), ("GET", "/"));
    assert_eq!((grant.methods.len(), grant.paths.len(), grant.allow_private.len()), (1, 1, 0));
}

#[test]
fn https_checks_demand_a_certificate_for_who_is_asked() {
    let config = valid("checks.toml");
    let trusted: Vec<(String, Trust)> = config
        .apps
        .iter()
        .filter_map(|app| match &app.check {
            Check::Http(check) => check.tls.as_ref(),
            _ => None,
        })
        .map(|tls| (tls.server_name.to_string(), tls.trust.clone()))
        .collect();
    let expected = [
        ("www.example.org".to_owned(), Trust::Platform),
        ("[::1]".to_owned(), Trust::Anyone),
        ("shop.example.org".to_owned(), Trust::Platform),
    ];
    assert_eq!(trusted, expected);
    let tcp: Vec<(&str, u16)> = config
        .apps
        .iter()
        .filter_map(|app| match &app.check {
            Check::Tcp(check) => Some((check.host.as_str(), check.port)),
            _ => None,
        })
        .collect();
    assert_eq!(tcp, [("127.0.0.1", 25), ("localhost", 6379)]);
}

#[test]
fn commands_and_beats_are_taken_as_they_are_written() {
    let config = valid("checks.toml");
    let [.., command, bare, beats, rising] = &config.apps[..] else { panic!("{:?}", config.apps) };
    let expected = ExecCheck {
        program: "/usr/lib/nagios/plugins/check_load".into(),
        arguments: ["-c", "9, 8", ""].map(str::to_owned).to_vec(),
        user: Some("nagios".into()),
        env: [("_A1", ""), ("LANG", "en_US.UTF-8")].map(|(name, value)| (name.into(), value.into())).into(),
    };
    assert_eq!(command.check, Check::Exec(expected));
    let expected = ExecCheck {
        program: "/bin/true".into(),
        arguments: vec![],
        user: None,
        env: std::collections::BTreeMap::new(),
    };
    assert_eq!((&bare.check, bare.rise, bare.check.port()), (&Check::Exec(expected), 2, 0));
    assert_eq!((&beats.check, beats.rise, beats.check.port()), (&Check::Ttl(Duration::from_secs(30)), 1, 0));
    assert_eq!((&rising.check, rising.rise), (&Check::Ttl(Duration::from_secs(604_800)), 3));
}

#[test]
fn remedies_name_what_was_meant() {
    let cases = [
        ("unknown-key-near.toml", "did you mean `bind`?"),
        ("unknown-key-far.toml", "here may stand: `name`, `bind`, `advertise`, `state_dir`, `admin_socket`"),
        ("duration-no-unit.toml", "say which unit, in quotes: interval = \"5s\""),
        ("duration-range.toml", "take 100ms to 1h; the default is 5s"),
        ("bind-no-port.toml", "add a port: \"127.0.0.1:7946\""),
        ("bind-mapped.toml", "write the address as 127.0.0.1"),
        ("no-key.toml", "picored keygen"),
        ("profile.toml", "did you mean `wan`?"),
        ("profile-far.toml", "`lan`, `wan`, `local`, `fast`"),
        ("on.toml", "did you mean `app-up`?"),
        ("list-as-section.toml", "write [[app]], with two brackets"),
        ("section-as-list.toml", "write [node]"),
        ("seeds-twice.toml", "leave one"),
        ("syntax-unquoted.toml", "stand in double quotes"),
        ("seeds.toml", "add a port: \"[2001:db8::6]:7946\""),
        ("publish.toml", "write the address as 203.0.113.5"),
        ("check-kind.toml", "tcp = \"127.0.0.1:5432\", exec = [\"/usr/bin/...\"] or ttl = \"30s\""),
        ("check-exec.toml", "there is no shell, so words are texts of their own"),
        ("check-ttl.toml", "ttl = \"30s\""),
        ("check-url.toml", "write \"http://127.0.0.1:8080/health\""),
        ("grant-allow.toml", "allow_private = [\"127.0.0.1/32\"]"),
        ("secrets.toml", "{ credential = \"NAME\" }"),
        ("auth-secret.toml", "did you mean `pdns`?"),
        ("auth-secret-none.toml", "[secrets] pdns = { file = \"/etc/picored/pdns\" }"),
        ("auth-scheme.toml", "did you mean `bearer`?"),
        ("auth-header.toml", "add header = \"X-API-Key\""),
        ("auth-path.toml", "add auth = { scheme = \"path\""),
        ("auth-plaintext.toml", "add allow_plaintext = true"),
        ("grant-lists.toml", "write \"10.0.0.0/8\""),
    ];
    let configs = configs("invalid");
    for (name, help) in cases {
        let (_, text) = configs.iter().find(|(file, _)| file == name).expect(name);
        let errors = Config::parse(text).expect_err(name);
        assert!(errors.iter().any(|error| error.help.contains(help)), "{name}:\n{errors}");
    }
}

#[test]
fn a_mistake_is_shown_with_its_place_an_excerpt_and_a_remedy() {
    let text = "[node]\nname = \"web1\"\n\tbnid = \"127.0.0.1:7946\"\nbind = \"[::1]:0\"\n[cluster]\nname = \"a b\"\n";
    let shown = Config::parse(text).expect_err("two mistakes").to_string();
    let expected = "\
line 3, column 2: `bnid` is not a key of [node]
    3 |  bnid = \"127.0.0.1:7946\"
      |  ^^^^
help: did you mean `bind`?

line 6, column 8: `name` is no name: a name has ASCII letters, digits, `-`, `_`, `.` only, and begins and ends with a \
letter or digit: ' '
    6 | name = \"a b\"
      |        ^^^^^
help: use a short name such as \"web1\" or \"shop.example\"";
    assert_eq!(shown, expected);
}

#[test]
fn long_lines_are_cut_around_the_place() {
    let text = format!("[node]\nname = \"web1\"\nbind = \"127.0.0.1:0\"\n[cluster]\nname = \"{}\"\n", "é".repeat(5000));
    let shown = Config::parse(&text).expect_err("a long name").to_string();
    assert!(shown.lines().all(|line| line.chars().count() < 250), "{shown}");
    let seeds = vec!["\"127.0.0.1:1\""; 30].join(", ");
    let text = format!("[node]\nname = \"a\"\nbind = \"127.0.0.1:0\"\n[cluster]\nname = \"b\"\nseeds = [{seeds}, 5]\n");
    let shown = Config::parse(&text).expect_err("a number among the seeds").to_string();
    let (excerpt, caret) = (shown.lines().nth(1).unwrap(), shown.lines().nth(2).unwrap());
    assert_eq!(excerpt.chars().nth(caret.chars().position(|c| c == '^').unwrap()), Some('5'), "{shown}");
}

#[test]
fn oversized_and_senseless_texts_are_refused_with_a_place() {
    let sample = &configs("valid").into_iter().find(|(file, _)| file == "sample.toml").expect("it is there").1;
    for end in 0..sample.len() {
        if let Some(Err(errors)) = sample.get(..end).map(Config::parse) {
            let lines = sample[..end].lines().count().max(1) + 1;
            assert!(errors.iter().all(|error| error.line <= lines && error.column >= 1), "cut at {end}:\n{errors}");
        }
    }
    for text in
        ["\0", "\u{feff}", "\r", "=", "[", "[[", "{", "\"", "a.b.c", "🦀 = 🦀\n", "\u{feff}[node]\nname=🦀", "[[[[[["]
    {
        assert!(!Config::parse(text).expect_err(text).to_string().is_empty());
    }
    let deep = format!("x = {}", "[".repeat(10_000));
    assert!(Config::parse(&deep).is_err());
    let long = "#".repeat(MAX_TEXT_LEN + 1);
    assert!(Config::parse(&long).expect_err("too long").to_string().contains("the limit is 262144"));
}
