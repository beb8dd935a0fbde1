//! The metrics of a running node, as Prometheus' own parser reads them: over TCP and at the admin socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::site::Site;

/// Has promtool check what the first node says of itself by both ways.
pub(crate) fn are_good(site: &Site) -> anyhow::Result<()> {
    let (network, address, socket) = site.metrics_of(0)?;
    // The thread that looks over the network stays there, so it is one of its own.
    let over_tcp = std::thread::spawn(move || {
        network.enter()?;
        page(TcpStream::connect(address)?)
    });
    let over_tcp = over_tcp.join().expect("it does not panic").context("over TCP")?;
    let at_socket = page(UnixStream::connect(socket)?).context("at the admin socket")?;
    for page in [over_tcp, at_socket] {
        ensure!(
            page.lines().any(|line| line == "picored_joined 1"),
            "the node does not say that it has joined:\n{page}"
        );
        check(&page)?;
    }
    Ok(())
}

fn page(mut stream: impl Read + Write) -> anyhow::Result<String> {
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: picored\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, page) = text.split_once("\r\n\r\n").context("no head")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Ok(page.to_owned())
}

fn check(page: &str) -> anyhow::Result<()> {
    let mut promtool = Command::new("promtool");
    let promtool =
        promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().context("promtool cannot be run: apt-get install prometheus")?;
    promtool.stdin.take().context("a pipe was asked for")?.write_all(page.as_bytes())?;
    let done = promtool.wait_with_output()?;
    let said = [done.stdout, done.stderr].concat();
    ensure!(done.status.success() && said.is_empty(), "promtool: {}\nof\n{page}", String::from_utf8_lossy(&said));
    Ok(())
}
