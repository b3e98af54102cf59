//! The command line.

mod change;
mod check;
mod client;
mod doctor;
mod events;
mod explain;
mod papers;
mod status;
mod top;
mod trace;

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use tracing_subscriber::EnvFilter;

use crate::{agent, daemon, decap, rights};

const EXAMPLES: &str = "\
Examples:
  xlb check /etc/xlb/xlb.toml        show every problem in a configuration, without root
  xlb doctor -c /etc/xlb/xlb.toml    what on this machine would stop traffic, and how to mend it
  xlb run -c /etc/xlb/xlb.toml       balance in the foreground; SIGHUP reloads, SIGTERM ends
  xlb status                         who serves, how much, and why packets were dropped
  xlb top                            the same, live
  xlb explain 203.0.113.7:40000 192.0.2.1:80/tcp
                                     what would become of such a packet, and why
  xlb trace --client 203.0.113.7     what becomes of such packets, as they pass
  xlb drain web 10.0.1.1             no new connections there; xlb enable, or xlb reset, ends it

`xlb COMMAND --help` says more. Every key of the configuration is explained in full.toml, which the
package has in /usr/share/doc/xlb/examples.";

/// Layer-4 load balancer: an XDP program sends packets to backends in the kernel; this daemon keeps it in step with health
/// checks, DNS and the configuration
#[derive(Parser)]
#[command(name = "xlb", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Balance: load the program, attach it, and serve in the foreground
    ///
    /// Takes root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON. SIGHUP reads the configuration again, and changes nothing if
    /// it is wrong; SIGTERM and SIGINT end the daemon, and detach the program unless xdp.on_exit is "keep". Killed, it
    /// leaves the program forwarding, and the next `xlb run` with the same xdp.pin takes over. The log goes to stderr;
    /// RUST_LOG chooses how much of it, such as RUST_LOG=debug.
    Run {
        /// Configuration file
        #[arg(long, short, value_name = "FILE", default_value = "/etc/xlb/xlb.toml")]
        config: PathBuf,
        /// Log as lines for people, or as JSON objects
        #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
        log_format: LogFormat,
    },
    /// Show every problem in a configuration; needs no root
    ///
    /// Prints one line and ends with 0 where it is right, else shows each problem at its place and ends with 1. Touches
    /// nothing, and does not look whether interfaces and backends exist. Where a daemon answers on the socket that the file
    /// names, it also shows what a reload would change.
    Check {
        /// Configuration file
        #[arg(value_name = "FILE", default_value = "/etc/xlb/xlb.toml")]
        file: PathBuf,
        /// The same, as other commands have it
        #[arg(long, short, value_name = "FILE", conflicts_with = "file")]
        config: Option<PathBuf>,
        /// The socket of the daemon to compare with; the file's api.socket unless given
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
    },
    /// Examine this machine: what would stop traffic, and how to mend it
    ///
    /// Changes nothing; it only asks backends for their link-layer addresses, as the daemon does. With a configuration it looks
    /// at what that needs: interfaces, next hops, who answers for each VIP. Ends with 1 if there is a problem. Without root some
    /// things cannot be seen.
    Doctor {
        /// Configuration file; without, only the machine is examined
        #[arg(long, short, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON instead of lines
        #[arg(long)]
        json: bool,
    },
    /// Show services, backends and packet counts of a running daemon
    ///
    /// A backend's share is that of its service's slots: the part of new connections that goes there. `xlb status --json`
    /// is what GET /lb/status answers.
    Status {
        /// Print JSON instead of tables
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: client::Server,
    },
    /// Watch services, backends, rates and drops of a running daemon in the terminal
    ///
    /// Asks once a second. q ends it, the arrows and page keys move, s sorts by the next column: as configured, packets, bits,
    /// connections. When the daemon goes away, what was last known stays, and it is asked again.
    Top {
        /// Print one picture, with the rates of one second, and end
        #[arg(long)]
        once: bool,
        #[command(flatten)]
        server: client::Server,
    },
    /// Print what changes, as it changes: health, weights, drains, reloads
    ///
    /// First what the daemon has kept, the last 200 changes, then each as it comes. Times are UTC.
    Events {
        /// Print JSON, an object each line
        #[arg(long)]
        json: bool,
        /// Print what was kept, and end
        #[arg(long)]
        once: bool,
        #[command(flatten)]
        server: client::Server,
    },
    /// On a backend: take packets out of the tunnels that end here
    ///
    /// For services with forward = "ipip" or "gue". Attaches a small program to the interface that the balancers' packets come
    /// in on, so that the backend needs no tunnel module; SIGTERM and SIGINT detach it. IP in IP and GUE to this host's own
    /// addresses come out as the packets that the clients sent, and go on through the stack; everything else is untouched.
    /// SIGUSR1 logs how many packets there were. The service's VIP must be an address of this host, on lo for one.
    Decap {
        /// Interface that packets of the balancers arrive on
        #[arg(long, value_name = "NAME")]
        interface: String,
        /// How to run the program
        #[arg(long, value_enum, default_value_t = decap::Mode::Auto)]
        mode: decap::Mode,
        /// An address at which tunnels end, if not all of the interface's do; may be given several times
        #[arg(long, value_name = "ADDRESS")]
        address: Vec<IpAddr>,
        /// A balancer's own address: with one or more, packets from anybody else are left alone
        #[arg(long, value_name = "ADDRESS")]
        from: Vec<IpAddr>,
        /// UDP port of GUE: the service's gue_port
        #[arg(long, value_name = "PORT", default_value_t = 6080)]
        gue_port: u16,
    },
    /// On a backend: say how this host is, for checks of type "agent"
    ///
    /// Answers each TCP connection with a line of HAProxy's agent-check protocol. "ready up NN%": CPU and memory are within their
    /// limits, and NN falls linearly from 100 when idle to 1 at the limit. "down #reason": a limit is passed, by a disk too, or
    /// something cannot be measured any more. "drain" and "maint", with the file's first line as the reason: an operator has made
    /// that file. Measures once a second, the CPU over five; needs no rights. SIGTERM and SIGINT end it.
    Agent {
        /// Where to answer
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:9777")]
        listen: SocketAddr,
        /// Down above this share of CPU time; waiting for disks is not counted
        #[arg(long, value_name = "PERCENT", default_value = "95%")]
        cpu_max: agent::Percent,
        /// Down above this share of memory; what the kernel can give back at once is not counted
        #[arg(long, value_name = "PERCENT", default_value = "95%")]
        memory_max: agent::Percent,
        /// Down when the file system with PATH is fuller than this, such as /var=90%; may be given several times
        #[arg(long, value_name = "PATH=PERCENT")]
        disk: Vec<agent::Disk>,
        /// A balancer's own address: with one or more, nobody else is answered
        #[arg(long, value_name = "ADDRESS")]
        from: Vec<IpAddr>,
        /// While this file is there, say "drain": no new connections, those there are go on
        #[arg(long, value_name = "FILE", default_value = "/run/xlb-agent/drain")]
        drain_file: PathBuf,
        /// While this file is there, say "maint"
        #[arg(long, value_name = "FILE", default_value = "/run/xlb-agent/maint")]
        maint_file: PathBuf,
    },
    /// Say what would become of a packet now, and why: service, slot, backend, way and verdict
    ///
    /// Takes the packet through the packet path, by the tables as they stand, and changes nothing: no packet is sent, and no flow
    /// put on record. Of a packet from a nat backend to a client it says whose reply it is. Shows one step a line, in their order:
    ///
    ///   xlb explain 203.0.113.7:40000 192.0.2.1:80/tcp --syn
    #[command(verbatim_doc_comment)]
    Explain {
        #[command(flatten)]
        packet: explain::Packet,
        /// Print JSON instead of lines
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: client::Server,
    },
    /// Show packets as they pass: which service and backend, why, and what became of them
    ///
    /// A line a packet, until Ctrl-C, --count or --duration. Packets are private: it takes the rights of a change, and only one
    /// can trace at a time. What is traced costs the packet path more, so that there is an end to it: some 4,500 packets a second;
    /// how many more there were is told. With --verdict and --backend, all packets that --vip, --client and --sample leave cost
    /// that. Nothing is traced any more as soon as this ends, however it does. Times are UTC.
    ///
    ///   xlb trace --client 203.0.113.7
    ///   xlb trace --verdict dropped --duration 10m
    ///   xlb trace --vip 192.0.2.1 --sample 1/100 --write web.pcapng
    #[command(verbatim_doc_comment)]
    Trace {
        #[command(flatten)]
        wish: trace::Wish,
        /// Print what the daemon tells, an object each line
        #[arg(long, conflicts_with = "write")]
        json: bool,
        /// Write a pcapng file for tcpdump or Wireshark: each packet as it came and as it leaves, commented
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
        #[command(flatten)]
        reach: client::Reach,
    },
    #[command(flatten)]
    Change(change::Verb),
    /// Print completions for a shell
    ///
    /// For bash: xlb completions bash > /etc/bash_completion.d/xlb
    Completions {
        /// Whose completions
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write man pages into a directory, for packages
    #[command(hide = true)]
    Man {
        /// Where to; it must exist
        directory: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Runs what the command line asks for, with the BPF program in `object`.
pub fn main(object: &'static [u8]) -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run { config, log_format } => run(object, config, log_format),
        Command::Decap { interface, mode, address, from, gue_port } => {
            let options = decap::Options { interface, mode, addresses: address, senders: from, gue_port };
            start_log(LogFormat::Text);
            block_on(decap::run(object, options))
        }
        Command::Agent { listen, cpu_max, memory_max, disk, from, drain_file, maint_file } => {
            let limits = agent::Limits { cpu: cpu_max, memory: memory_max, disks: disk };
            start_log(LogFormat::Text);
            block_on(agent::run(agent::Options { listen, limits, askers: from, maint_file, drain_file }))
        }
        Command::Check { file, config, socket } => check::check(&config.unwrap_or(file), socket),
        Command::Events { json, once, server } => block_on(events::follow(&server.into(), json, once)),
        Command::Explain { packet, json, server } => block_on(explain::show(&server.into(), &packet, json)),
        Command::Trace { wish, json, write, reach } => {
            let output = match write {
                Some(path) => trace::Output::File(path),
                None if json => trace::Output::Json,
                None => trace::Output::Lines,
            };
            block_on(trace::follow(&reach, &wish, output))
        }
        Command::Change(verb) => block_on(change::carry_out(verb)),
        Command::Doctor { config, json } => doctor::show(config.as_deref(), json),
        Command::Status { json, server } => block_on(status::show(&server.into(), json)),
        Command::Top { once: true, server } => block_on(top::print_once(&server.into())),
        Command::Top { once: false, server } => top::watch(&server.into()),
        Command::Completions { shell } => papers::print_completions(shell),
        Command::Man { directory } => papers::write_man_pages(&directory),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", in_words(&error));
            ExitCode::FAILURE
        }
    }
}

/// netlink_packet_route warns of every kind of link that it does not know.
const LOG_DEFAULT: &str = "info,netlink_packet_route=error";

fn run(object: &'static [u8], config: PathBuf, log_format: LogFormat) -> Result<()> {
    start_log(log_format);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all().on_thread_start(rights::give_up_in_worker).build()?.block_on(daemon::run(object, config))
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG_DEFAULT));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(future)
}

/// The error with its causes. A configuration's problems come rendered already.
fn in_words(error: &anyhow::Error) -> String {
    match error.downcast_ref::<crate::config::ConfigError>() {
        Some(problems) => problems.to_string(),
        None => format!("error: {}", crate::error::chain(error.as_ref())),
    }
}

/// Writes to standard output. Who reads only the first lines, as `head` does, has seen enough.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
