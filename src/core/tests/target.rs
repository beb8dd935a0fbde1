//! Canonical URLs against lists of hostile and odd ones: what is refused, and what is rewritten to which form.

use std::collections::BTreeSet;

use picored_core::policy::{Host, MAX_URL_LEN, RefusalKind, Target, check};

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
