//! `--hold`: everything stays, with commands to try.

use anyhow::Result;
use xlb_tests::paths;

use super::show::Show;
use super::stage::{PORT, STICKY, Stage, WEB, WEB_V6};

/// Prints what to try and waits for Ctrl-C, which cleans up.
pub fn hold(show: &mut Show, dsr: &Stage, nat: &Stage) -> Result<()> {
    show.title("Everything still runs. To try in another shell, as root:");
    for stage in [dsr, nat] {
        println!();
        for (what, command) in commands(stage)? {
            show.suggestion(&what, &command);
        }
    }
    show.note("\nCtrl-C ends it all.");
    loop {
        std::thread::park();
    }
}

fn commands(stage: &Stage) -> Result<Vec<(String, String)>> {
    let inside = |netns: &xlb_tests::Netns| format!("nsenter --net={}", netns.path().display());
    let (client, lb) = (inside(stage.client()), inside(&stage.network.lb.netns));
    let xlb = paths::xlb()?;
    let config = stage.daemon.config().display().to_string();
    let mut commands = vec![
        (
            format!("{}: which backend answers, over IPv4 and IPv6?", stage.name),
            format!("{client} curl -s http://{WEB}/ 'http://[{WEB_V6}]/'"),
        ),
        ("and to ten connections?".into(), format!("for i in $(seq 10); do {client} curl -s http://{WEB}/; done")),
    ];
    if stage.name == "dsr" {
        let ask = format!("{client} curl -s --interface 10.1.0.123 http://{STICKY}/");
        commands.push(("this client always reaches the same (the demo gave it 10.1.0.100 to .199)".into(), ask));
    }
    commands.extend([
        ("what xlb says".into(), format!("{lb} {} status", xlb.display())),
        ("its metrics".into(), format!("{lb} curl -s http://127.0.0.1:9400/metrics")),
        ("load".into(), format!("{client} wrk -c10 -t1 -d5s http://{WEB}:{PORT}/")),
        ("kill backend1".into(), format!("kill -9 {}", stage.backends[1].id())),
        ("what it logged about that".into(), format!("tail -n 5 {}", stage.daemon.log_file().display())),
        (
            "another configuration: every client with one backend".into(),
            format!("sed -i 's/\"maglev\"/\"ip-hash\"/' {config} && kill -HUP {}", stage.daemon.id()),
        ),
    ]);
    Ok(commands)
}
