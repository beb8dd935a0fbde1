//! Grants against requests that lean on their edges, and the filter on addresses against every range that is closed.
//! How URLs get their one form is in `target.rs`.

use std::net::IpAddr;

use picored_core::config::Config;
use picored_core::policy::{
    Cidr, Grant, Host, Method, Origin, PathPrefix, RefusalKind, Target, allowed_addresses, check, closed_range,
    forbidden_request_header, path_with_secret, same_header,
};

fn grant(origin: &str, methods: &[&str], paths: &[&str], allow_private: &[&str]) -> Grant {
    Grant {
        origin: origin.parse().expect("a sound grant"),
        methods: methods.iter().map(|text| text.parse().expect("a sound grant")).collect(),
        paths: paths.iter().map(|text| text.parse().expect("a sound grant")).collect(),
        auth: None,
        allow_private: allow_private.iter().map(|text| text.parse().expect("a sound grant")).collect(),
    }
}

#[test]
fn grants_match_what_they_say_and_nothing_else() {
    let grants = [
        grant("http://127.0.0.1:8081", &["GET", "PATCH"], &["/api/v1/zones/example.org."], &["127.0.0.1/32"]),
        grant("https://*.example.org", &["GET"], &["/"], &[]),
        grant("http://[::1]", &["PUT"], &["/a", "/b c".replace(' ', "%20").as_str()], &[]),
    ];
    let cases: &[(&str, &str, Option<usize>)] = &[
        ("GET", "http://127.0.0.1:8081/api/v1/zones/example.org.", Some(0)),
        ("PATCH", "http://127.0.0.1:8081/api/v1/zones/example.org.", Some(0)),
        ("GET", "http://127.0.0.1:8081/api/v1/zones/example.org./", Some(0)),
        ("GET", "http://127.0.0.1:8081/api/v1/zones/example.org./export?x=1", Some(0)),
        ("GET", "http://127.0.0.1:8081/api/v1/zones/x/../example.org.", Some(0)),
        ("GET", "http://127.0.0.1:8081/api/v1/zones/example.org%2E", Some(0)),
        ("GET", "http://127.0.0.1:8081/api/v1/zones/example.org.evil", None),
        ("GET", "http://127.0.0.1:8081/api/v1/zones/example.org", None),
        ("GET", "http://127.0.0.1:8081/api/v1/zones", None),
        ("GET", "http://127.0.0.1:8081/api/v1/zones/EXAMPLE.ORG.", None),
        ("GET", "http://127.0.0.1:8081/api/v1/zones/example.org./../../../secret", None),
        ("GET", "http://127.0.0.1:8081/api/v1/zones/example.org./%2e%2e/other", None),
        ("GET", "http://127.0.0.1:8081/?/api/v1/zones/example.org.", None),
        ("GET", "http://127.0.0.1:8081/#/api/v1/zones/example.org.", None),
        ("DELETE", "http://127.0.0.1:8081/api/v1/zones/example.org.", None),
        ("GET", "https://127.0.0.1:8081/api/v1/zones/example.org.", None),
        ("GET", "http://127.0.0.1/api/v1/zones/example.org.", None),
        ("GET", "http://127.0.0.2:8081/api/v1/zones/example.org.", None),
        ("GET", "http://localhost:8081/api/v1/zones/example.org.", None),
        ("GET", "http://[::ffff:127.0.0.1]:8081/api/v1/zones/example.org.", None),
        ("GET", "https://api.example.org/", Some(1)),
        ("GET", "https://a.b.example.org/any/where?q", Some(1)),
        ("GET", "https://API.EXAMPLE.ORG:443", Some(1)),
        ("GET", "https://example.org/", None),
        ("GET", "https://evilexample.org/", None),
        ("GET", "https://api.example.org.evil.example/", None),
        ("GET", "https://api.example.org:8443/", None),
        ("GET", "http://api.example.org/", None),
        ("POST", "https://api.example.org/", None),
        ("PUT", "http://[0::1]/a/x", Some(2)),
        ("PUT", "http://[::1]/b%20c", Some(2)),
        ("PUT", "http://[::1]/ab", None),
        ("PUT", "http://[::2]/a", None),
    ];
    for (method, url, expected) in cases {
        let target = Target::canonical(url).unwrap();
        match (check(&grants, method, &target), expected) {
            (Ok(found), Some(index)) => assert_eq!(found, &grants[*index], "{method} {url}"),
            (Err(refusal), None) => assert_eq!(refusal.kind, RefusalKind::Denied, "{method} {url}"),
            (other, _) => panic!("{method} {url}: {other:?}"),
        }
    }
}

#[test]
fn a_denial_names_the_lines_that_would_allow_it() {
    let target = Target::canonical("http://api.example.org/x?y=1").unwrap();
    assert_eq!(
        check(&[], "GET", &target).unwrap_err().reason,
        "no grant allows GET http://api.example.org:80/x; to allow it add [[handler.http]] \
         allow = \"http://api.example.org\", methods = [\"GET\"], paths = [\"/x\"]"
    );
}

#[test]
fn what_a_denial_advises_works() {
    let deep = format!("http://a.example/{}", "segment/".repeat(100));
    for (method, url) in [
        ("GET", "http://a.example/"),
        ("PATCH", "https://a.example:8443/x/y/"),
        ("PUT", "http://[2001:4860::1]:81/a%22b?c"),
        ("GET", "http://127.0.0.1:8081/a"),
        ("GET", "http://[::1]/a"),
        ("GET", "http://169.254.169.254/latest/*"),
        ("GET", "http://a.example/x*"),
        ("M-SEARCH", "http://a.example/a%25b".replace("%25", "%20").as_str()),
        ("GET", &deep),
    ] {
        let target = Target::canonical(url).unwrap();
        let reason = check(&[], method, &target).unwrap_err().reason;
        let advised = Grant::for_request(method.parse().unwrap(), &target);
        let lines = advised.to_string();
        for line in lines.lines() {
            assert!(reason.contains(line), "{line} in {reason}");
        }
        // As an operator would add it.
        let config = format!(
            "[node]\nname = \"a\"\nbind = \"127.0.0.1:7946\"\n[cluster]\nname = \"c\"\n[[handler]]\nname = \"h\"\n\
             source = \"builtin:x\"\n{lines}\n"
        );
        let config = Config::parse(&config).unwrap_or_else(|errors| panic!("{lines}\n{errors}"));
        let grants = &config.handlers[0].http;
        assert_eq!(grants, &[advised]);
        let grant = check(grants, method, &target).unwrap();
        if let Host::Address(address) = target.host() {
            assert_eq!(allowed_addresses(grant, &[*address]).unwrap(), [*address]);
        }
    }
}

#[test]
fn methods_are_upper_case_tokens_and_never_connect_or_trace() {
    let all = [grant("http://a.example", &["GET", "M-SEARCH"], &["/"], &[])];
    let target = Target::canonical("http://a.example/").unwrap();
    for method in ["GET", "M-SEARCH"] {
        check(&all, method, &target).unwrap();
    }
    for method in ["", "get", "Get", "GET ", " GET", "GET\r\nX: y", "G\0ET", "GÉT", "*", "-GET", "CONNECT", "TRACE"] {
        assert_eq!(check(&all, method, &target).unwrap_err().kind, RefusalKind::Invalid, "{method:?}");
        assert!(method.parse::<Method>().is_err(), "{method:?}");
    }
    for method in ["connect", "Trace"] {
        assert!(method.parse::<Method>().unwrap_err().message.contains("never sent"), "{method:?}");
    }
    assert!("A".repeat(32).parse::<Method>().is_ok() && "A".repeat(33).parse::<Method>().is_err());
}

#[test]
fn parts_of_grants_that_cannot_match_are_errors_with_a_remedy() {
    let origins: &[(&str, &str)] = &[
        ("example.org", "http:// or https://"),
        ("ftp://example.org", "http:// or https://"),
        ("http://", "no host"),
        ("http://example.org/api", "paths go into"),
        ("http://example.org?x", "queries are not matched"),
        ("http://example.org#x", "more than"),
        ("http://user@example.org", "user information"),
        ("http://*", "whole first label"),
        ("http://*.", "no host"),
        ("http://*example.org", "whole first label"),
        ("http://a.*.org", "whole first label"),
        ("http://*.*.org", "whole first label"),
        ("http://*.127.0.0.1", "no names below"),
        ("http://*.[::1]", "can"),
        ("http://127.1", "write 127.0.0.1"),
        ("http://example.org:0", "port is 0"),
        ("http://example.org:99999", "port"),
        ("http://example.org.", "leave that out"),
    ];
    for (text, part) in origins {
        let error = text.parse::<Origin>().expect_err(text);
        assert!(error.to_string().contains(part), "{text:?}: {error}");
    }
    let paths: &[(&str, &str)] = &[
        ("", "write \"/\""),
        ("api", "write \"/api\""),
        ("/api/", "write \"/api\""),
        ("/api/*", "write \"/api\""),
        ("/*", "write \"/\""),
        ("//", "write \"/\""),
        ("/a?b", "write the path alone"),
        ("/a#b", "write the path alone"),
        ("/a/../b", "write \"/b\""),
        ("/a/./b", "write \"/a/b\""),
        ("/%61", "write \"/a\""),
        ("/a%3ab", "write \"/a%3Ab\""),
        ("/ä", "write \"/%C3%A4\""),
        ("/a%2fb", "encoded slashes"),
        ("/a//b", "//"),
        ("/a b", "white space"),
    ];
    for (text, part) in paths {
        let error = text.parse::<PathPrefix>().expect_err(text);
        assert!(error.help.contains(part), "{text:?}: {error}");
    }
    let ranges: &[(&str, &str)] = &[
        ("127.0.0.1", "write \"127.0.0.1/32\""),
        ("::1", "write \"::1/128\""),
        ("10.0.0.1/8", "write \"10.0.0.0/8\""),
        ("fd00::1/8", "write \"fd00::/8\""),
        ("10.0.0.0/33", "0 to 32"),
        ("::/129", "0 to 128"),
        ("10.0.0.0/+8", "0 to 32"),
        ("10.0.0.0/08", "0 to 32"),
        ("10.0.0.0/", "0 to 32"),
        ("10.0.0/8", "such as"),
        ("localhost", "such as"),
        ("1.2.3.4/0", "write \"0.0.0.0/0\""),
    ];
    for (text, part) in ranges {
        let error = text.parse::<Cidr>().expect_err(text);
        assert!(error.help.contains(part), "{text:?}: {error}");
    }
    for text in ["http://Example.ORG", "https://*.example.org:8443", "http://[::1]:81", "http://127.0.0.1/"] {
        let origin: Origin = text.parse().unwrap();
        assert_eq!(origin.to_string().parse::<Origin>().unwrap(), origin, "{text}");
    }
    for text in ["0.0.0.0/0", "10.0.0.0/8", "127.0.0.1/32", "::/0", "::ffff:0.0.0.0/96", "fd00::/8"] {
        assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
    }
}

/// Addresses that no handler reaches unless told, with the name of their range; then those that are public.
const CLOSED: &[(&str, &str)] = &[
    ("0.0.0.0", "unspecified"),
    ("0.1.2.3", "this network"),
    ("10.0.0.1", "private"),
    ("10.255.255.255", "private"),
    ("100.64.0.1", "carrier-grade NAT"),
    ("100.100.100.200", "carrier-grade NAT"),
    ("100.127.255.255", "carrier-grade NAT"),
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback"),
    ("168.63.129.16", "cloud metadata"),
    ("169.254.0.1", "link-local"),
    ("169.254.169.254", "cloud metadata"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.0.0.192", "protocol assignments"),
    ("192.0.2.1", "documentation"),
    ("192.88.99.1", "6to4 relay"),
    ("192.168.1.1", "private"),
    ("198.18.0.1", "benchmarks"),
    ("198.19.255.255", "benchmarks"),
    ("198.51.100.1", "documentation"),
    ("203.0.113.1", "documentation"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.255", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "broadcast"),
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::2", "IPv4-compatible"),
    ("::127.0.0.1", "IPv4-compatible"),
    ("::ffff:127.0.0.1", "IPv4-mapped"),
    ("::ffff:8.8.8.8", "IPv4-mapped"),
    ("::ffff:0:127.0.0.1", "IPv4-translated"),
    ("64:ff9b::7f00:1", "NAT64"),
    ("64:ff9b::808:808", "NAT64"),
    ("64:ff9b:1::1", "local NAT64"),
    ("100::1", "discard"),
    ("2001::1", "Teredo"),
    ("2001:2::1", "benchmarks"),
    ("2001:20::1", "protocol assignments"),
    ("2001:db8::1", "documentation"),
    ("2002:7f00:1::", "6to4"),
    ("3fff::1", "documentation"),
    ("4000::1", "reserved"),
    ("8000::1", "reserved"),
    ("c000::1", "reserved"),
    ("fc00::1", "unique local"),
    ("fd00:ec2::254", "unique local"),
    ("fe80::1", "link-local"),
    ("fec0::1", "site-local"),
    ("ff02::1", "multicast"),
    ("1::1", "reserved"),
];
const PUBLIC: &[&str] = &[
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.1",
    "168.63.129.17",
    "169.253.255.255",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.1",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:200::1",
    "2003::1",
    "2606:4700::1111",
    "2a00::1",
    "3ffe::1",
];

#[test]
fn closed_addresses_are_dropped_unless_their_very_range_is_granted() {
    let name = grant("http://a.example", &["GET"], &["/"], &[]);
    for (address, range) in CLOSED {
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(closed_range(address), Some(*range), "{address}");
        let refusal = allowed_addresses(&name, &[address]).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Resolve);
        assert!(refusal.reason.contains(&format!("{address} ({range})")), "{refusal}");
        // Every other address of the table stays closed under the grant that the refusal advises.
        let advised = refusal.reason.split('"').nth(1).unwrap();
        let opened = grant("http://a.example", &["GET"], &["/"], &[advised]);
        for (other, _) in CLOSED {
            let other: IpAddr = other.parse().unwrap();
            assert_eq!(allowed_addresses(&opened, &[other]).is_ok(), other == address, "{other} under {advised}");
        }
    }
    for address in PUBLIC {
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(allowed_addresses(&name, &[address]), Ok(vec![address]));
    }
}

#[test]
fn a_range_opens_its_own_family_only() {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let all_v4 = grant("http://a.example", &["GET"], &["/"], &["0.0.0.0/0"]);
    assert!(allowed_addresses(&all_v4, &[address("127.0.0.1")]).is_ok());
    for text in ["::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::1"] {
        assert!(allowed_addresses(&all_v4, &[address(text)]).is_err(), "{text}");
    }
    let mapped = grant("http://a.example", &["GET"], &["/"], &["::ffff:127.0.0.0/104"]);
    assert!(allowed_addresses(&mapped, &[address("::ffff:127.0.0.1")]).is_ok());
    assert!(allowed_addresses(&mapped, &[address("::ffff:10.0.0.1")]).is_err());
    assert!(allowed_addresses(&mapped, &[address("127.0.0.1")]).is_err());
}

#[test]
fn mixed_answers_keep_their_allowed_part_in_order() {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let plain = grant("http://a.example", &["GET"], &["/"], &[]);
    let mixed = ["127.0.0.1", "8.8.8.8", "::1", "1.1.1.1"].map(address);
    assert_eq!(allowed_addresses(&plain, &mixed), Ok(vec![address("8.8.8.8"), address("1.1.1.1")]));
    let refusal = allowed_addresses(&plain, &[]).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Resolve);
    assert!(refusal.reason.contains("http://a.example has no address"), "{refusal}");
    let many: Vec<IpAddr> = (1..=9).map(|last| IpAddr::from([10, 0, 0, last])).collect();
    let reason = allowed_addresses(&plain, &many).unwrap_err().reason;
    assert!(reason.contains("10.0.0.4 (private), 5 more;") && !reason.contains("10.0.0.5"), "{reason}");
}

/// A literal is matched as a literal, and then filtered like any other address.
#[test]
fn an_address_in_the_url_passes_the_same_filter() {
    let grants = [grant("http://127.0.0.1:8081", &["GET"], &["/"], &[])];
    let target = Target::canonical("http://127.0.0.1:8081/").unwrap();
    let found = check(&grants, "GET", &target).unwrap();
    let Host::Address(address) = *target.host() else { panic!("no address: {target}") };
    let refusal = allowed_addresses(found, &[address]).unwrap_err();
    assert!(refusal.reason.contains("allow_private = [\"127.0.0.1/32\"] to the grant for http://127.0.0.1:8081"));
}

#[test]
fn headers_of_the_host_are_its_own() {
    let own = [
        "host",
        "Host",
        "HOST",
        "content-length",
        "Content-Length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "proxy-authorization",
        "Proxy-Connection",
        "proxy-anything",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "http2-settings",
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "x-method-override",
        "X-Original-URL",
        "x-rewrite-url",
        "Forwarded",
        "X-Forwarded-Host",
        "x-forwarded-proto",
        "X_HTTP_METHOD_OVERRIDE",
        "content_length",
        "transfer_Encoding",
        "",
        "host ",
        " host",
        "host:",
        ":authority",
        "a b",
        "a\r\nb",
        "a\0",
        "hést",
    ];
    for name in own {
        assert!(forbidden_request_header(name), "{name:?}");
    }
    for name in
        ["accept", "content-type", "Authorization", "X-API-Key", "user-agent", "tea", "x-host", "proxy", "x_custom"]
    {
        assert!(!forbidden_request_header(name), "{name:?}");
    }
}

#[test]
fn a_secret_in_a_path_stays_in_its_segment() {
    let grants = [grant("https://chat.example", &["POST"], &["/bot{secret}/send"], &[])];
    let send = |path: &str, secret: &str| {
        let target = Target::canonical(&format!("https://chat.example{path}")).expect("a sound URL");
        check(&grants, "POST", &target).map(|_| path_with_secret(&target, secret.as_bytes()))
    };
    for path in ["/bot{secret}/send", "/bot%7Bsecret%7D/send", "/bot%7bs%65cret%7d/./send", "/x/../bot{secret}/send"] {
        assert_eq!(send(path, "12:abc-_.~XYZ").unwrap().unwrap(), "/bot12%3Aabc-_.~XYZ/send", "{path}");
    }
    let hostile = send("/bot{secret}/send?q={secret}", "../a/?b#c%2f").unwrap().unwrap();
    assert_eq!(hostile, "/bot..%2Fa%2F%3Fb%23c%252f/send?q={secret}");
    assert!(send("/bot{secret}/send/{secret}", "x").unwrap().is_err(), "a second one");
    for path in ["/bot/send", "/bot{secret}x/send", "/bot{Secret}/send", "/bot12:abc/send", "/bot{secret}/other"] {
        assert!(send(path, "12:abc").is_err(), "{path}");
    }
}

#[test]
fn header_names_are_compared_as_the_most_careless_server_does() {
    assert!(same_header("X-API-Key", "x_api-KEY") && same_header("a", "A"));
    assert!(!same_header("X-API-Key", "X-API-Keys") && !same_header("xapikey", "x-api-key"));
}
