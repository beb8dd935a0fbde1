//! The HTTP policy against lists of hostile and odd inputs: what is refused, what is rewritten to which form, what a
//! grant matches, and which addresses may be dialled.

use std::collections::BTreeSet;
use std::net::IpAddr;

use picored_core::policy::{
    Cidr, Grant, Host, MAX_URL_LEN, Method, Origin, PathPrefix, RefusalKind, Target, allowed_addresses, check,
    closed_range, forbidden_request_header,
};

fn grant(origin: &str, methods: &[&str], paths: &[&str], allow_private: &[&str]) -> Grant {
    Grant {
        origin: origin.parse().unwrap(),
        methods: methods.iter().map(|text| text.parse().unwrap()).collect(),
        paths: paths.iter().map(|text| text.parse().unwrap()).collect(),
        allow_private: allow_private.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

/// What is written, and the one form that is sent.
const CANONICAL: &[(&str, &str)] = &[
    ("http://example.org", "http://example.org:80/"),
    ("https://example.org", "https://example.org:443/"),
    ("HTTP://EXAMPLE.org/A", "http://example.org:80/A"),
    ("http://example.org:80/", "http://example.org:80/"),
    ("http://example.org:/", "http://example.org:80/"),
    ("http://example.org:00080/", "http://example.org:80/"),
    ("http://example.org:8081/x", "http://example.org:8081/x"),
    ("https://example.org:80/", "https://example.org:80/"),
    ("http://example.org?q=1", "http://example.org:80/?q=1"),
    ("http://example.org/?", "http://example.org:80/?"),
    ("http://example.org#f", "http://example.org:80/"),
    ("http://example.org/a#/../b?c", "http://example.org:80/a"),
    ("http://example.org#@evil.example/", "http://example.org:80/"),
    ("http://example.org/@evil.example/", "http://example.org:80/@evil.example/"),
    ("http://example.org?@evil.example/", "http://example.org:80/?@evil.example/"),
    ("http://example.org/a/./b", "http://example.org:80/a/b"),
    ("http://example.org/a/../b", "http://example.org:80/b"),
    ("http://example.org/zones/x/../../../secret", "http://example.org:80/secret"),
    ("http://example.org/../../etc", "http://example.org:80/etc"),
    ("http://example.org/a/..", "http://example.org:80/"),
    ("http://example.org/a/b/.", "http://example.org:80/a/b/"),
    ("http://example.org/a/%2e%2e/b", "http://example.org:80/b"),
    ("http://example.org/a/%2E./b", "http://example.org:80/b"),
    ("http://example.org/a/.%2e/b", "http://example.org:80/b"),
    ("http://example.org/a%2ejson", "http://example.org:80/a.json"),
    ("http://example.org/%61%70%69", "http://example.org:80/api"),
    ("http://example.org/%7euser", "http://example.org:80/~user"),
    ("http://example.org/a%20b", "http://example.org:80/a%20b"),
    ("http://example.org/a%3ab%3Fc", "http://example.org:80/a%3Ab%3Fc"),
    ("http://example.org/ä", "http://example.org:80/%C3%A4"),
    ("http://example.org/%c3%a4", "http://example.org:80/%C3%A4"),
    ("http://example.org/a\"b<c>", "http://example.org:80/a%22b%3Cc%3E"),
    ("http://example.org/...", "http://example.org:80/..."),
    ("http://example.org/a?x=/../%2e%2e%2f", "http://example.org:80/a?x=/../%2e%2e%2f"),
    ("http://example.org/a?x=http://evil.example/", "http://example.org:80/a?x=http://evil.example/"),
    ("http://127.0.0.1:8081/", "http://127.0.0.1:8081/"),
    ("http://[::1]:8081/", "http://[::1]:8081/"),
    ("http://[0:0:0:0:0:0:0:1]/", "http://[::1]:80/"),
    ("http://[2001:DB8::A]/", "http://[2001:db8::a]:80/"),
    ("http://[::ffff:7f00:1]/", "http://[::ffff:127.0.0.1]:80/"),
    ("http://b\u{fc}cher.example/", "http://xn--bcher-kva.example:80/"),
    // Cyrillic letters that look Latin: another name, and plainly so.
    ("http://\u{430}\u{440}\u{440}l\u{435}.com/", "http://xn--l-7sbq6ba.com:80/"),
    ("http://EXAMPLE\u{3002}org/", "http://example.org:80/"),
    ("http://exam\u{ad}ple.org/", "http://example.org:80/"),
    ("http://\u{ff45}xample.org/", "http://example.org:80/"),
    ("http://localhost/", "http://localhost:80/"),
    ("http://under_score.example/", "http://under_score.example:80/"),
];

/// What is refused, and a part of the reason.
const INVALID: &[(&str, &str)] = &[
    ("", "http:// or https://"),
    ("example.org", "http:// or https://"),
    ("//example.org/", "http:// or https://"),
    ("/path", "http:// or https://"),
    ("ftp://example.org/", "http:// or https://"),
    ("file:///etc/passwd", "http:// or https://"),
    ("javascript://example.org/", "http:// or https://"),
    ("http:example.org", "http:// or https://"),
    ("http:/example.org", "http:// or https://"),
    ("http:/\\example.org", "backslash"),
    ("http:\\\\example.org", "backslash"),
    (" http://example.org", "white space"),
    ("http://example.org/ ", "white space"),
    ("ht\ntp://example.org", "white space"),
    ("http://exam\tple.org/", "white space"),
    ("http://example.org/a\r\nHost: evil", "white space"),
    ("http://example.org/a\0b", "control"),
    ("http://example.org/a\u{85}b", "control"),
    ("http://example.org/a\u{2028}b", "white space"),
    ("http://example.org\\@evil.example/", "backslash"),
    ("http://example.org/a\\..\\b", "backslash"),
    ("http://", "no host"),
    ("http:///example.org", "no host"),
    ("http:////example.org", "no host"),
    ("http://?x", "no host"),
    ("http://#x", "no host"),
    ("http://:80/", "empty host"),
    ("http://user@example.org/", "user information"),
    ("http://user:word@example.org/", "user information"),
    ("http://user@host@evil.example/", "user information"),
    ("http://@example.org/", "user information"),
    ("http://example.org@/", "user information"),
    ("http://example.org:80@evil.example/", "user information"),
    ("http://example.org%40evil.example/", "percent-encoded"),
    ("http://ex%61mple.org/", "percent-encoded"),
    ("http://127.0.0.1%00.example.org/", "percent-encoded"),
    ("http://example.org%2f@evil.example/", "user information"),
    ("http://[fe80::1%25eth0]/", "zone id"),
    ("http://[fe80::1%eth0]/", "zone id"),
    ("http://example.org:0/", "port is 0"),
    ("http://example.org:65536/", "port"),
    ("http://example.org:-1/", "port"),
    ("http://example.org:80:80/", "port"),
    ("http://example.org:8o/", "port"),
    ("http://2130706433/", "unusual form"),
    ("http://0x7f000001/", "unusual form"),
    ("http://0x7f.1/", "unusual form"),
    ("http://017700000001/", "unusual form"),
    ("http://0177.0.0.1/", "unusual form"),
    ("http://127.1/", "unusual form"),
    ("http://127.0.1/", "unusual form"),
    ("http://0/", "unusual form"),
    ("http://127.0.0.1./", "unusual form"),
    ("http://127.0.0.01/", "unusual form"),
    ("http://\u{ff11}27.0.0.1/", "unusual form"),
    ("http://\u{2460}27.0.0.1/", "unusual form"),
    ("http://127\u{3002}0\u{3002}0\u{3002}1/", "unusual form"),
    ("http://256.0.0.1/", "IPv4"),
    ("http://1.2.3.4.5/", "IPv4"),
    ("http://example.1/", "IPv4"),
    ("http://[::1/", "IPv6"),
    ("http://[::1]x/", ""),
    ("http://[::g]/", "IPv6"),
    ("http://[127.0.0.1]/", "IPv6"),
    ("http://::1/", ""),
    ("http://example.org./", "ends in a dot"),
    ("http://example..org/", "label"),
    ("http://.example.org/", "label"),
    ("http://example.org../", "ends in a dot"),
    ("http://./", "ends in a dot"),
    ("http://*.example.org/", "character"),
    ("http://a,b.example/", "character"),
    ("http://a'b.example/", "character"),
    ("http://a|b.example/", ""),
    ("http://example.org\u{ff0f}evil.example/", ""),
    ("http://example.org\u{2100}.evil.example/", ""),
    ("http://xn--\u{fc}.example/", ""),
    ("http://example.org//evil.example/", "empty segment"),
    ("http://example.org//", "empty segment"),
    ("http://example.org/a//b", "empty segment"),
    ("http://example.org/a/..//b", "empty segment"),
    ("http://example.org/a%2fb", "encoded slash"),
    ("http://example.org/a/..%2F..%2fb", "encoded slash"),
    ("http://example.org/a%5cb", "backslash"),
    ("http://example.org/%252e%252e/b", "double encoding"),
    ("http://example.org/%25%32%65", "double encoding"),
    ("http://example.org/a%00", "encoded control"),
    ("http://example.org/a%0d%0aHost:%20evil", "encoded control"),
    ("http://example.org/a%7f", "encoded control"),
    ("http://example.org/a%c2%85", "encoded control"),
    ("http://example.org/%c0%ae%c0%ae/b", "UTF-8"),
    ("http://example.org/%ff", "UTF-8"),
    ("http://example.org/%", "hexadecimal"),
    ("http://example.org/%4", "hexadecimal"),
    ("http://example.org/%zz", "hexadecimal"),
    ("http://example.org/%+1", "hexadecimal"),
    ("http://example.org/%u002e", "hexadecimal"),
    ("http://example.org/%\u{e9}x", "hexadecimal"),
    ("http://example.org/a/..;/b", "parameter"),
    ("http://example.org/a/%2e%2e;x=1/b", "parameter"),
    ("http://example.org/a/..%3b/b", "parameter"),
    ("http://example.org/a/.;/b", "parameter"),
];

#[test]
fn each_url_has_one_form() {
    for (written, sent) in CANONICAL {
        match Target::canonical(written) {
            Ok(target) => assert_eq!(target.to_string(), *sent, "{written:?}"),
            Err(refusal) => panic!("{written:?}: {refusal}"),
        }
    }
}

#[test]
fn what_has_two_readings_is_refused() {
    for (written, reason) in INVALID {
        match Target::canonical(written) {
            Ok(target) => panic!("{written:?} became {target}"),
            Err(refusal) => {
                assert_eq!(refusal.kind, RefusalKind::Invalid, "{written:?}");
                assert!(refusal.reason.contains(reason), "{written:?}: {refusal}");
                assert!(!refusal.reason.contains(char::is_control), "{written:?}: {refusal:?}");
            }
        }
    }
}

#[test]
fn long_urls_are_refused_and_reasons_stay_short() {
    let fitting = format!("http://example.org/{}", "a".repeat(MAX_URL_LEN - 19));
    let target = Target::canonical(&fitting).unwrap();
    assert!(check(&[], "GET", &target).unwrap_err().reason.len() < 2000);
    let refusal = Target::canonical(&format!("{fitting}a")).unwrap_err();
    assert!(refusal.reason.contains("8193 bytes") && refusal.reason.len() < 2000, "{refusal}");
}

/// The form that is sent is a fixed point, also for every URL put together from the pieces that attacks are made of.
#[test]
fn canonical_form_is_idempotent() {
    let scheme = ["http://", "HTTPS://"];
    let host = ["a.example", "A.Example:80", "127.0.0.1:443", "[::1]", "[::FFFF:1.2.3.4]:8080", "b\u{fc}.example"];
    let piece = [
        "", "/", ".", "..", "%2e", "%2E%2e", "a", "A b", "%41", "%7E", "%20", "%c3%a4", "ä", ";", "..;", "%3b", "%2f",
        "%25", "%", "\\", "*", "=", "@", ":", "\"", "'", "^", "|", "[", "`", "{",
    ];
    let tail = ["", "?", "?a=%2e%2F'\"", "#x", "?#", "?a=ä#b"];
    let mut forms = BTreeSet::new();
    let mut refused = 0;
    for (number, first) in piece.iter().enumerate() {
        for (count, second) in piece.iter().enumerate() {
            for third in piece {
                let pick = number + count + third.len();
                let (scheme, host, tail) = (scheme[pick % 2], host[pick % host.len()], tail[count % tail.len()]);
                let url = format!("{scheme}{host}/{first}/{second}{third}{tail}");
                let Ok(once) = Target::canonical(&url) else {
                    refused += 1;
                    continue;
                };
                let twice = Target::canonical(&once.to_string()).unwrap_or_else(|refusal| panic!("{url:?}: {refusal}"));
                assert_eq!(once, twice, "{url:?}");
                assert!(once.path().starts_with('/') && once.to_string().is_ascii(), "{url:?}: {once}");
                let dots = once.path().split('/').any(|segment| matches!(segment, "." | ".."));
                assert!(!dots, "{url:?}: {once}");
                forms.insert(once.to_string());
            }
        }
    }
    for (_, sent) in CANONICAL {
        assert_eq!(Target::canonical(sent).unwrap().to_string(), *sent);
    }
    assert!(forms.len() > 1000 && refused > 1000, "{} forms, {refused} refused", forms.len());
}

#[test]
fn a_target_gives_its_parts() {
    let target = Target::canonical("HTTPS://API.example.org:8443/a/../b?c=d#e").unwrap();
    assert_eq!(target.scheme().as_str(), "https");
    assert_eq!(target.host(), &Host::Name("api.example.org".into()));
    assert_eq!(target.port(), 8443);
    assert_eq!(target.path(), "/b");
    assert_eq!(target.path_and_query(), "/b?c=d");
    assert_eq!(target.authority(), "api.example.org:8443");
    assert_eq!(Target::canonical("http://[::1]:80").unwrap().authority(), "[::1]");
    assert_eq!(Target::canonical("https://a.example:80").unwrap().authority(), "a.example:80");
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
    // What it advises works, also where the path ends in a slash or the port is odd.
    for url in ["http://a.example/", "https://a.example:8443/x/y/", "http://[::1]:81/a%22b?c", "http://127.0.0.1/a"] {
        let target = Target::canonical(url).unwrap();
        let reason = check(&[], "PATCH", &target).unwrap_err().reason;
        let quoted: Vec<&str> = reason.split('"').skip(1).step_by(2).collect();
        let [origin, method, path] = quoted[..] else { panic!("{reason}") };
        check(&[grant(origin, &[method], &[path], &[])], "PATCH", &target).unwrap();
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
    for name in ["accept", "content-type", "Authorization", "X-API-Key", "user-agent", "tea", "x-host", "proxy"] {
        assert!(!forbidden_request_header(name), "{name:?}");
    }
}
