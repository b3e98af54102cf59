//! The command line.

mod check;
mod status;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::daemon;

/// A layer-4 load balancer: an XDP program steers packets to backends in the kernel, and this daemon keeps it in step with
/// health checks, DNS and the configuration.
#[derive(Parser)]
#[command(name = "xlb", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Balance: load the program, attach it, and serve until SIGTERM or SIGINT (SIGHUP reloads the file)
    Run {
        /// The configuration
        #[arg(long, short, value_name = "FILE", default_value = "/etc/xlb/xlb.toml")]
        config: PathBuf,
        /// How log lines look; what is logged follows RUST_LOG, such as RUST_LOG=debug
        #[arg(long, value_enum, default_value_t = LogFormat::Text)]
        log_format: LogFormat,
    },
    /// Say whether a configuration is right, and show every problem in it; needs no root
    Check {
        /// The configuration
        #[arg(value_name = "FILE", default_value = "/etc/xlb/xlb.toml")]
        config: PathBuf,
    },
    /// Show services, backends and packet counters of a running daemon
    Status {
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
        /// Where the daemon's API listens
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9400")]
        api: SocketAddr,
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
        Command::Check { config } => check::check(&config),
        Command::Status { json, api } => block_on(status::show(api, json)),
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
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG_DEFAULT));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    block_on(daemon::run(object, config))
}

fn block_on(future: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(future)
}

/// The error with its causes. A configuration's problems come rendered already.
fn in_words(error: &anyhow::Error) -> String {
    match error.downcast_ref::<crate::config::ConfigError>() {
        Some(problems) => problems.to_string(),
        None => format!("error: {}", crate::error::chain(error.as_ref())),
    }
}
