//! `xlb run`: loads the program, and keeps the maps equal to what should hold until it is told to end.
//!
//! One loop owns the maps. Checkers, watchers, the resolver, signals and the API send it messages; it takes in all that wait,
//! then compiles once and writes the difference.

mod adopt;
mod assemble;
mod bpf_log;
mod control;
mod desk;
mod followers;
pub(crate) mod host;
mod interfaces;
mod ledger;
pub mod preview;
mod pulse;
mod report;
pub(crate) mod secret;
mod supervisor;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

pub use assemble::BackendKey;
pub use assemble::{Findings, assemble, written};
pub(crate) use assemble::{addresses, behind_gateway, refresh};
pub(crate) use control::interface_name;
pub use desk::{Answer, Order, Trouble};
pub use ledger::{ServiceSums, Sums};

use crate::api;
use crate::compile::{self, Layout};
use crate::config::{self, Config, Mode, OnExit};
use crate::datapath::{Attached, Attachment, Datapath, Handles, Pins, Wanted};
use crate::discovery;
use crate::error::chain;
use crate::explain::{Explanation, Question, Senseless};
use crate::health::{self, Steering};
use crate::nexthop::{self, Changes, RedirectMode, Resolver};
use crate::rights;
use crate::status::{Interface, Snapshot};
use crate::tables::Tables;
use control::{Control, ControlError, Start};
use desk::{Desk, Event};
use followers::Followers;
use interfaces::Interfaces;
use supervisor::Supervisor;

/// Messages that may wait for the control loop. Senders wait beyond that, and try again what is then newer.
const QUEUE: usize = 1024;

/// Changes that may wait. More are refused: whoever makes so many does not wait for answers.
const ORDERS: usize = 16;

/// A question of the API to the control loop. Its answer changes nothing.
pub enum Inquiry {
    Snapshot(oneshot::Sender<Snapshot>),
    Explain { question: Question, answer: oneshot::Sender<Result<Explanation, Senseless>> },
}

/// Where findings arrive.
struct Inbox {
    health: mpsc::Receiver<health::News>,
    discovery: mpsc::Receiver<discovery::News>,
    next_hops: mpsc::Receiver<Changes>,
    inquiries: mpsc::Receiver<Inquiry>,
    /// The way out: told whenever something may have changed.
    changed: Arc<Notify>,
}

/// Runs the daemon with the BPF program in `object` until SIGTERM or SIGINT.
///
/// # Errors
/// If it cannot start: nothing is left attached then that was not before.
pub async fn run(object: &[u8], config_path: PathBuf) -> Result<()> {
    let (config, text) = config::load_with_text(&config_path)?;
    rights::check()?;
    // Before anything is attached: a signal from here on must find somebody who undoes it.
    let mut signals = Signals::new()?;
    let doors = api::Doors::open(&config.api).await?;
    let identity = doors.identity.clone();
    let pins = Pins::open(&config.xdp.pin)?;
    let secret = config.xdp.secret_file.as_deref().map(secret::read).transpose()?;
    let features = features(&config);
    let (mut datapath, handles) = Datapath::load(object, pins, (&config).into(), features, secret)?;
    bpf_log::follow(datapath.ebpf_mut());
    let adopted = datapath.adopted;
    // With the lock on the pins: a daemon that was killed here is the one whose rules are found.
    let steering = Steering::start(config.steering);
    let started = start(&config, text, &mut datapath, handles, doors, &steering).await;
    let Started { mut control, mut inbox, mut desk, socket } = match started {
        Ok(started) => started,
        Err(error) => {
            steering.end().await;
            // What an earlier daemon left running balances better than nothing.
            shut_down(datapath, if adopted { OnExit::Keep } else { OnExit::Detach });
            return Err(error);
        }
    };
    rights::give_up_in_main();
    let mut supervisor = Supervisor::from_environment();
    supervisor.ready(&control.in_words());
    tokio::spawn(pulse::watch());
    let mut file = File { object, datapath: &mut datapath, path: &config_path, identity };
    serve(&mut control, &mut inbox, &mut desk, &mut signals, &mut file, &mut supervisor).await;
    supervisor.stopping();
    desk.finish(&mut control).await;
    control.set_tracing(false);
    drop(socket);
    control.log_end();
    shut_down(datapath, control.config().xdp.on_exit);
    steering.end().await;
    Ok(())
}

/// What the loop works with.
struct Started {
    control: Control,
    inbox: Inbox,
    desk: Desk,
    /// Removed at the end.
    socket: Option<api::SocketFile>,
}

/// What the program has to know of for this configuration.
fn features(config: &Config) -> u32 {
    compile::features(&assemble::assemble(config, &assemble::Findings::default()))
}

/// Everything up to the first packet.
async fn start(
    config: &Config,
    text: String,
    datapath: &mut Datapath,
    Handles { maps, counters, tracer }: Handles,
    doors: api::Doors,
    steering: &Steering,
) -> Result<Started> {
    let mut layout = Layout::new(maps.n_slots()).with_prefixes(config.limits.prefixes);
    let remembered = desk::remember(config);
    let mut findings = assemble::Findings { overrides: remembered.overrides, ..assemble::Findings::default() };
    let tables = if datapath.adopted {
        info!(pin = %config.xdp.pin.display(), "taking over the tables of an earlier daemon");
        adopt::adopt(&maps, config, &mut layout, &mut findings)
    } else {
        Tables::default()
    };
    for interface in &config.xdp.interfaces {
        let attachment = attachment(interface, config.xdp.mode).await?;
        datapath.attach(&attachment)?;
    }
    datapath.detach_all_but(&config.xdp.interfaces)?;
    let (to_health, health) = mpsc::channel(QUEUE);
    let (to_discovery, discovery) = mpsc::channel(QUEUE);
    let (to_next_hops, next_hops) = mpsc::channel(QUEUE);
    let (to_inquiries, inquiries) = mpsc::channel(QUEUE);
    let resolver = Resolver::start(redirect_mode(datapath.attached()), to_next_hops).await?;
    let followers = Followers::new(resolver, steering.clone(), to_health, to_discovery);
    let counters = Arc::new(counters);
    let ledger = ledger::Ledger::new(counters.clone());
    let config_text = text.into();
    let start = Start { config: config.clone(), config_text, findings, followers, maps, layout, tables, ledger };
    let mut control = Control::new(start);
    set_interfaces(&mut control, datapath);
    control.reconcile(None)?;
    control.publish();
    let (to_orders, orders) = mpsc::channel(ORDERS);
    let mut desk = Desk::new(config.api.state_file.clone(), orders, remembered.deadlines, remembered.trouble);
    desk.note_reload(&remembered.forgotten);
    desk.follow(&mut control);
    desk.note_held(&mut control);
    let changed = Arc::new(Notify::new());
    let socket = api::serve(doors, to_inquiries, to_orders, counters, tracer, control.journal(), changed.clone());
    Ok(Started { control, inbox: Inbox { health, discovery, next_hops, inquiries, changed }, desk, socket })
}

/// The loop.
async fn serve(
    control: &mut Control,
    inbox: &mut Inbox,
    desk: &mut Desk,
    signals: &mut Signals,
    file: &mut File<'_>,
    supervisor: &mut Supervisor,
) {
    let mut complaint = Complaint::default();
    let mut interfaces = Interfaces::new();
    loop {
        supervisor.beat(Instant::now());
        control.attend();
        let due = control.next_due();
        let look = control.next_look();
        let beat = supervisor.next_beat().into_iter().chain(control.next_attendance()).min();
        // In this order: what came first to those who wait longest. Answers to the API come last, they are of the state after the rest.
        let since = tokio::select! {
            biased;
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = signals.hangup.recv() => {
                supervisor.reloading();
                let accepted = reload(control, desk, file).await.is_ok();
                let refused = if accepted { "" } else { "the last reload was refused, the log says why; " };
                supervisor.ready(&format!("{refused}{}", control.in_words()));
                None
            }
            // Before what may come without end.
            () = sleep_until(beat.unwrap_or_else(Instant::now)), if beat.is_some() => continue,
            Some(news) = inbox.health.recv() => control.note_health(news),
            Some(changes) = inbox.next_hops.recv() => {
                let now = Instant::now();
                if changes.redirects.is_some() {
                    interfaces.note_change();
                }
                control.note_next_hops(changes);
                Some(now)
            }
            Some(news) = inbox.discovery.recv() => {
                let now = Instant::now();
                control.note_discovery(news);
                Some(now)
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                control.finish_retirement();
                None
            }
            () = sleep_until(look.unwrap_or_else(Instant::now)), if look.is_some() => {
                control.look_at_flows();
                continue;
            }
            () = sleep_until(interfaces.next_look()) => {
                if !interfaces.look(&control.config().xdp.clone(), file.datapath).await {
                    continue;
                }
                control.note_lost(interfaces.lost());
                set_interfaces(control, file.datapath);
                None
            }
            event = desk.next() => {
                handle(event, control, desk, file).await;
                None
            }
            Some(inquiry) = inbox.inquiries.recv() => {
                answer(inquiry, control, desk);
                continue;
            }
        };
        take_in_the_rest(control, inbox);
        desk.follow(control);
        complaint.note(control.reconcile(since));
        desk.note_held(control);
        control.publish();
        inbox.changed.notify_one();
        // However much comes before: who asks how things stand is answered.
        if let Ok(inquiry) = inbox.inquiries.try_recv() {
            answer(inquiry, control, desk);
        }
    }
}

/// What is wrong with the tables, said once however often it is tried.
#[derive(Default)]
struct Complaint(Option<String>);

impl Complaint {
    fn note(&mut self, done: Result<(), ControlError>) {
        let error = done.err().map(|error| chain(&error));
        if error != self.0 {
            match &error {
                Some(error) => error!(error, "the tables are not what they should be"),
                None => info!("the tables are what they should be again"),
            }
        }
        self.0 = error;
    }
}

/// Tells how things stand. Who asked may have gone.
fn answer(inquiry: Inquiry, control: &Control, desk: &Desk) {
    match inquiry {
        Inquiry::Snapshot(answer) => {
            let state_trouble = desk.trouble().cloned();
            drop(answer.send(Snapshot { state_trouble, ..control.snapshot() }));
        }
        Inquiry::Explain { question, answer } => drop(answer.send(control.explain(&question))),
    }
}

/// Takes in what else is waiting, so that a burst of findings is compiled once.
fn take_in_the_rest(control: &mut Control, inbox: &mut Inbox) {
    while let Ok(news) = inbox.health.try_recv() {
        control.note_health(news);
    }
    while let Ok(changes) = inbox.next_hops.try_recv() {
        control.note_next_hops(changes);
    }
    while let Ok(news) = inbox.discovery.try_recv() {
        control.note_discovery(news);
    }
}

/// What a reload is about.
struct File<'f> {
    /// What programs are loaded from.
    object: &'f [u8],
    datapath: &'f mut Datapath,
    path: &'f Path,
    /// Its files are read again too.
    identity: Option<api::Identity>,
}

/// What was set at runtime, or is to be.
async fn handle(event: Event, control: &mut Control, desk: &mut Desk, file: &mut File<'_>) {
    match event {
        Event::Due => {}
        Event::Written(written) => desk.note_written(written, control),
        Event::Order(Order::Change { change, by, answer }) => desk.take(change, by, answer, control),
        // In all of these, who asked may have gone.
        Event::Order(Order::Running { answer }) => drop(answer.send(control.running())),
        Event::Order(Order::Trace { is_on, answer }) => {
            control.set_tracing(is_on);
            let _ = answer.send(());
        }
        Event::Order(Order::Reload { by, answer }) => {
            info!(by, "asked to reload");
            let done = reload(control, desk, file).await;
            drop(answer.send(done.map_err(|error| Trouble::NotReloaded(format!("{error:#}")))));
        }
    }
}

/// Another configuration from the same file. A bad one changes nothing. Yields what is different now.
async fn reload(control: &mut Control, desk: &mut Desk, file: &mut File<'_>) -> Result<Vec<String>> {
    let result = try_reload(control, file).await;
    control.note_reload(result.as_ref().err().map(|error| report::in_one_line(&format!("{error:#}"))));
    match &result {
        Ok(reloaded) => {
            info!(config = %file.path.display(), "reloaded");
            desk.note_reload(&reloaded.forgotten);
        }
        Err(error) => error!(config = %file.path.display(), "not reloaded, everything stays as it is: {error:#}"),
    }
    result.map(|reloaded| {
        reloaded.diff.into_iter().chain(reloaded.forgotten.iter().map(|line| format!("  forgotten: {line}"))).collect()
    })
}

/// What a reload has changed.
struct Reloaded {
    diff: Vec<String>,
    /// What was set at runtime and means nothing any more.
    forgotten: Vec<String>,
}

async fn try_reload(control: &mut Control, file: &mut File<'_>) -> Result<Reloaded> {
    let datapath = &mut *file.datapath;
    let (new, text) = config::load_with_text(file.path)?;
    let old = control.config().clone();
    if let Some(key) = preview::differing_fixed_keys(&old, &new).first() {
        anyhow::bail!("{key} cannot change while running; restart the daemon for it");
    }
    let renewed = file.identity.as_ref().map(api::Identity::renew).transpose().context("the API's TLS")?;
    let diff = preview::diff(&control.running(), &new, &text);
    // First what can fail and can be undone; the tables last.
    rights::with_all(|| datapath.provide(file.object, features(&new)))?;
    let added: Vec<&String> = new.xdp.interfaces.iter().filter(|interface| !old.xdp.interfaces.contains(interface)).collect();
    let mut done = attach_all(datapath, &added, new.xdp.mode).await.map(|()| Vec::new());
    if done.is_ok() {
        set_interfaces(control, datapath);
        done = control.reload(new.clone(), text.into()).map_err(Into::into);
    }
    let forgotten = match done {
        Ok(forgotten) => forgotten,
        Err(error) => {
            added.into_iter().try_for_each(|interface| datapath.detach(interface))?;
            set_interfaces(control, datapath);
            return Err(error);
        }
    };
    for interface in old.xdp.interfaces.iter().filter(|interface| !new.xdp.interfaces.contains(interface)) {
        datapath.detach(interface)?;
        info!(interface, "detached");
    }
    set_interfaces(control, datapath);
    if let (Some(identity), Some(renewed)) = (&file.identity, renewed) {
        identity.take(renewed);
    }
    Ok(Reloaded { diff, forgotten })
}

/// Lets the control loop know where the program runs now, and how.
fn set_interfaces(control: &mut Control, datapath: &Datapath) {
    control.set_interfaces(interfaces(datapath.attached()), redirect_mode(datapath.attached()));
}

async fn attach_all(datapath: &mut Datapath, interfaces: &[&String], mode: Mode) -> Result<()> {
    for interface in interfaces {
        datapath.attach(&attachment(interface, mode).await?)?;
    }
    Ok(())
}

/// Ends cleanly: takes the program off, or leaves it running as it is.
fn shut_down(mut datapath: Datapath, on_exit: OnExit) {
    match on_exit {
        OnExit::Keep => match datapath.pin_again() {
            Ok(_) => info!("the program keeps running by the tables as they stand; the next daemon takes over"),
            Err(error) => {
                let error = chain(&error);
                error!(error, "the pins are gone: the program ends with this process, and with it the balancing");
            }
        },
        OnExit::Detach => match datapath.shut_down() {
            Ok(()) => info!("detached"),
            Err(error) => error!(error = chain(&error), "detaching"),
        },
    }
}

/// How to attach to an interface, by what it is and what the operator wants.
async fn attachment(interface: &str, mode: Mode) -> Result<Attachment> {
    let facts = nexthop::facts(interface).await?;
    let advice = nexthop::advise(&facts);
    let mode = match mode {
        Mode::Native => {
            if let Some(reason) = &advice.reason {
                warn!(interface, reason, "native mode, as configured, though auto would not pick it here");
            }
            Wanted::Native
        }
        Mode::Generic => Wanted::Generic { reason: None },
        Mode::Auto if advice.native => Wanted::NativeIfPossible,
        Mode::Auto => Wanted::Generic { reason: advice.reason },
    };
    Ok(Attachment { interface: interface.to_owned(), ifindex: facts.ifindex, mode })
}

/// Native as soon as one interface is: what a native program redirects must arrive, and generic ones can do with less.
fn redirect_mode<'a>(mut attached: impl Iterator<Item = &'a Attached>) -> RedirectMode {
    if attached.any(|attached| attached.native) { RedirectMode::Native } else { RedirectMode::Generic }
}

fn interfaces<'a>(attached: impl Iterator<Item = &'a Attached>) -> Vec<Interface> {
    let interface = |attached: &Attached| Interface {
        name: attached.interface.clone(),
        ifindex: attached.ifindex,
        mode: if attached.native { "native" } else { "generic" },
    };
    attached.map(interface).collect()
}

/// Signals that the daemon obeys.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}
