//! `picored run` under a service manager, which is told of the start, the loop and the end.

use std::os::unix::net::UnixDatagram;
use std::process::Stdio;

use crate::check::Site;
use crate::command;

#[test]
fn the_service_manager_is_told_of_the_start_the_loop_and_the_end() {
    let site = Site::new();
    let config = site.config(&site.good().replace("127.0.0.1:7946", "127.0.0.1:0"));
    let manager = UnixDatagram::bind(site.at("notify")).unwrap();
    let mut daemon = command(&["run", "--config", &config])
        .env("NOTIFY_SOCKET", site.at("notify"))
        .env("WATCHDOG_USEC", "200000")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let hear = || {
        let mut buffer = [0; 64];
        manager.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
        let length = manager.recv(&mut buffer).expect("the manager is told");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert_eq!([hear(), hear(), hear()], ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]);
    rustix::process::kill_process(rustix::process::Pid::from_child(&daemon), rustix::process::Signal::TERM).unwrap();
    while hear() != "STOPPING=1" {}
    assert!(daemon.wait().unwrap().success());
}
