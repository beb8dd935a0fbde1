//! Handlers that try to give secrets away, in a real daemon: the servers that get them repeat them in every form, the
//! handlers say all that they see and all that they know, and nothing that anybody can read afterwards has one.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::node::die_with_test;
use crate::site::{Site, fixture};
use crate::wait::found;

/// A secret, how it is sent, and how the handler ends that may send it.
struct Case {
    name: &'static str,
    value: &'static str,
    /// In the grant.
    auth: &'static str,
    end: &'static str,
}

const CASES: [Case; 5] = [
    Case { name: "bearer", value: "t0k/en+of~bearer==", auth: "scheme = \"bearer\"", end: "done" },
    Case { name: "basic", value: "pass word%\"of\\basic", auth: "scheme = \"basic\", user = \"web\"", end: "retry" },
    Case { name: "header", value: "q7Zr-9xVb2-Klm-header", auth: "header = \"X-API-Key\"", end: "permanent" },
    Case { name: "path", value: "path:secret/with?marks#1", auth: "scheme = \"path\"", end: "trap" },
    Case {
        name: "hmac",
        value: "the-key-that-signs-bodies",
        auth: "scheme = \"hmac-sha256-header\", header = \"X-Signature\"",
        end: "done",
    },
];

/// What can be read at the admin socket.
const PATHS: [&str; 5] = ["/v1/status", "/v1/members", "/v1/handlers", "/v1/events", "/metrics"];

/// The secret as it is, percent-encoded, in hexadecimal and escaped.
fn texts(secret: &str) -> Vec<String> {
    let percent = |byte: u8| format!("%{byte:02X}");
    let whole: String = secret.bytes().map(percent).collect();
    let needed = |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { percent(byte) };
    let escaped: String = secret.bytes().map(needed).collect();
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let json = serde_json::to_string(secret).unwrap();
    vec![
        secret.to_owned(),
        secret.to_ascii_uppercase(),
        whole.to_ascii_lowercase(),
        whole,
        escaped.to_ascii_lowercase(),
        escaped,
        hex.to_ascii_uppercase(),
        hex,
        json[1..json.len() - 1].replace('/', "\\/"),
    ]
}

/// The secret in all forms that a server is likely to repeat it in.
fn forms(secret: &str) -> Vec<String> {
    let mut forms = texts(secret);
    for before in ["", "a", "ab"] {
        let text = format!("{before}{secret}");
        forms.extend([STANDARD.encode(&text), URL_SAFE_NO_PAD.encode(&text)]);
    }
    forms
}

/// What no text may hold, in lower case: eight characters of the secret, twelve of another form.
fn traces(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let piece = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut traces: Vec<String> = bytes.windows(8).map(piece).collect();
    for text in texts(secret) {
        traces.extend(text.as_bytes().windows(12).map(piece));
    }
    // Wherever the secret begins, its groups of three bytes have characters of their own.
    for start in 0..3 {
        for nine in bytes[start..].chunks_exact(3).collect::<Vec<_>>().windows(3) {
            let nine = nine.concat();
            traces.extend([STANDARD.encode(&nine), URL_SAFE_NO_PAD.encode(&nine)]);
        }
    }
    traces.iter().map(|trace| trace.to_ascii_lowercase()).collect()
}

/// A server that keeps each request. Each line of `said` comes back as a header and in the body, which also has the whole
/// request and comes in chunks of three bytes.
struct Echo {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Echo {
    async fn start(said: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let kept = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Who asked may have gone.
                let _ = answer(stream, &said, &kept).await;
            }
        });
        Self { address, seen }
    }

    fn seen(&self) -> String {
        self.seen.lock().unwrap().join("\n")
    }
}

async fn answer(mut stream: TcpStream, said: &[String], seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut request = Vec::new();
    let request = loop {
        let mut part = [0; 4096];
        let count = stream.read(&mut part).await?;
        if count == 0 {
            return Ok(());
        }
        request.extend_from_slice(&part[..count]);
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        if body.len() >= length {
            break text.into_owned();
        }
    };
    seen.lock().unwrap().push(request.clone());
    let mut head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n".to_owned();
    let is_name = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    for (number, line) in said.iter().enumerate() {
        let _ = write!(head, "x-echo-{number}: {line}\r\n");
        if is_name(line) {
            let _ = write!(head, "x-{number}-{line}: name\r\n");
        }
    }
    stream.write_all((head + "\r\n").as_bytes()).await?;
    let body = format!("{request}\n{}", said.join("\n"));
    let chunks = body.as_bytes().chunks(3).map(|chunk| (format!("{:x}\r\n", chunk.len()), chunk));
    let chunks: Vec<u8> = chunks.flat_map(|(size, chunk)| [size.as_bytes(), chunk, b"\r\n"].concat()).collect();
    stream.write_all(&chunks).await?;
    stream.write_all(b"0\r\n\r\n").await
}

/// Killed when it is dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The config of a daemon whose state is in `state`. Its handlers: one for each case, which does not know its secret and
/// sends what it sees to `other`; and one for each way to end, which knows every secret.
fn config(site: &Site, name: &str, echoes: &[Echo], other: &Echo) -> (String, Vec<String>) {
    let mut text = format!(
        "[node]\nname = \"n1\"\nbind = \"127.0.0.1:0\"\nstate_dir = {:?}\nadmin_socket = {:?}\n\
         [cluster]\nname = \"test\"\nkey_file = {:?}\n[secrets]\n",
        site.path(&format!("{name}.state")),
        site.path(&format!("{name}.sock")),
        site.path("key"),
    );
    for case in &CASES {
        let place = match case.name {
            "basic" => "{ env = \"SECRET_OF_THE_TEST\" }".to_owned(),
            "path" => "{ credential = \"path\" }".to_owned(),
            other => format!("{{ file = {:?} }}", site.path(other)),
        };
        let _ = writeln!(text, "{} = {place}", case.name);
    }
    let mut names = Vec::new();
    let mut handler = |name: String, settings: String, more: String| {
        let source = format!("file:{}", fixture("leak").display());
        let _ = write!(
            text,
            "[[handler]]\nname = \"{name}\"\nsource = {source:?}\non = [\"reconcile\"]\ntimeout = \"60s\"\n\
             [handler.config]\n{settings}\n{more}"
        );
        names.push(name);
    };
    let private = "allow_private = [\"127.0.0.0/8\"]\nmethods = [\"POST\"]";
    for (case, echo) in CASES.iter().zip(echoes) {
        let path = if case.name == "path" { "/bot{secret}/a" } else { "/a" };
        let url = format!("http://{}{path}", echo.address);
        let settings = format!("url = {url:?}\nother = \"http://{}/\"\nend = {:?}\n", other.address, case.end);
        let grants = format!(
            "[[handler.http]]\nallow = \"http://{}\"\npaths = [{path:?}]\n{private}\nauth = {{ {}, secret = {:?} }}\n\
             [[handler.http]]\nallow = \"http://{}\"\n{private}\n",
            echo.address, case.auth, case.name, other.address
        );
        handler(format!("sees-{}", case.name), settings, grants);
    }
    let all: Vec<String> = CASES.iter().flat_map(|case| forms(case.value)).collect();
    for end in ["done", "retry", "permanent", "trap"] {
        // What is not granted is refused, and logged with the URL.
        let url = format!("http://127.0.0.1:9/{}", URL_SAFE_NO_PAD.encode(CASES[0].value));
        let settings = format!("end = {end:?}\nsay = {:?}\nurl = {url:?}\n", all.join("\n"));
        handler(format!("knows-{end}"), settings, String::new());
    }
    (text, names)
}

/// All that a GET at the admin socket answers.
fn ask(socket: &Path, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: picored\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    answer
}

/// The names and contents of all files in a folder.
fn files(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            let content = fs::read(&path).unwrap();
            found.push((path.display().to_string(), String::from_utf8_lossy(&content).into_owned()));
        }
    }
}

#[tokio::test]
async fn a_handler_that_tries_to_leak_secrets_leaks_none() {
    let site = Site::new();
    for case in &CASES {
        fs::write(site.path(case.name), format!("{}\n", case.value)).unwrap();
        fs::set_permissions(site.path(case.name), PermissionsExt::from_mode(0o600)).unwrap();
    }
    let mut told = Vec::new();
    for format in ["json", "text"] {
        let mut echoes = Vec::new();
        for case in &CASES {
            echoes.push(Echo::start(forms(case.value)).await);
        }
        let other = Echo::start(vec!["nothing".into()]).await;
        let (config, handlers) = config(&site, format, &echoes, &other);
        let (path, log) = (site.path(&format!("{format}.toml")), site.path(&format!("{format}.log")));
        fs::write(&path, config).unwrap();
        let picored = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_picored"));
            command.args(arguments).stdin(Stdio::null());
            command.env("SECRET_OF_THE_TEST", CASES[1].value).env("CREDENTIALS_DIRECTORY", site.path(""));
            command
        };
        let output = File::create(&log).unwrap();
        let arguments = ["run", "--log-format", format, "--log-level", "trace", "--config", path.to_str().unwrap()];
        let mut command = picored(&arguments);
        command.stdout(output.try_clone().unwrap()).stderr(output);
        die_with_test(&mut command);
        let daemon = Daemon(command.spawn().unwrap());
        let is_end = |line: &str, handler: &str| {
            let named = [format!("handler={handler} "), format!("\"handler\":\"{handler}\"")];
            line.contains("ended") && line.contains("run_ms") && named.iter().any(|name| line.contains(name))
        };
        let all_ended = async || {
            let said = fs::read_to_string(&log).unwrap_or_default();
            handlers.iter().all(|handler| said.lines().any(|line| is_end(line, handler))).then_some(())
        };
        site.until(&format!("every handler's run ends in {}", log.display()), found(all_ended)).await;

        let socket = site.path(&format!("{format}.sock"));
        for path in PATHS {
            told.push((path.to_owned(), ask(&socket, path)));
        }
        let socket = socket.to_str().unwrap();
        for arguments in [
            &["status", "--socket", socket][..],
            &["status", "--json", "--socket", socket],
            &["members", "--socket", socket],
            &["events", "--socket", socket],
            &["handler", "list", "--socket", socket],
            &["handler", "run", "knows-done", "--dry-run", "--socket", socket],
            &["handler", "run", "sees-bearer", "--dry-run", "--json", "--socket", socket],
            &["check", "--config", path.to_str().unwrap()],
        ] {
            let output = picored(arguments).output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {output:?}");
            told.push((arguments.join(" "), String::from_utf8_lossy(&output.stdout).into_owned()));
            told.push((arguments.join(" "), String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        // A process that dies leaves no image of its memory to whoever collects those.
        let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.0.id())).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert!(matches!(core.split_whitespace().nth(4), Some("0" | "1")), "{core}");
        drop(daemon);

        let said = fs::read_to_string(&log).unwrap();
        assert!(said.contains("[secret]") && said.contains("x-echo-0: [secret]") && said.contains("stderr"), "{said}");
        assert!(said.contains("no grant allows POST http://127.0.0.1:9/[secret]"), "{said}");
        told.push((log.display().to_string(), said));
        files(&site.path(&format!("{format}.state")), &mut told);
        let sent = other.seen();
        assert!(sent.contains("%5Bsecret%5D"), "what it had seen was sent on: {sent}");
        told.push(("what another server got".into(), sent));
        // It was there to be leaked.
        let got = |index: usize, text: &str| assert!(echoes[index].seen().contains(text), "{}", echoes[index].seen());
        got(0, &format!("authorization: Bearer {}\r\n", CASES[0].value));
        got(1, &format!("authorization: Basic {}\r\n", STANDARD.encode(format!("web:{}", CASES[1].value))));
        got(2, &format!("x-api-key: {}\r\n", CASES[2].value));
        got(3, "POST /botpath%3Asecret%2Fwith%3Fmarks%231/a HTTP/1.1\r\n");
        got(4, "x-signature: sha256=");
    }
    for case in &CASES {
        let traces = traces(case.value);
        for form in forms(case.value) {
            let form = form.to_ascii_lowercase();
            assert!(traces.iter().any(|trace| form.contains(trace)), "{form} would not be found");
        }
    }
    for (place, text) in &told {
        let text = text.to_ascii_lowercase();
        for case in &CASES {
            if let Some(trace) = traces(case.value).iter().find(|trace| text.contains(*trace)) {
                let at = text.find(trace).unwrap();
                let around = text[text.floor_char_boundary(at.saturating_sub(200))..].chars().take(500);
                panic!("{place} has {trace:?} of {}: {}", case.name, around.collect::<String>());
            }
        }
    }
}
