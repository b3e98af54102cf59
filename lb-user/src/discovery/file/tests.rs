//! The watching, against a real file system. The interval is an hour: what is noticed, the kernel has told.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::config::{FileFormat, Trust};
use crate::discovery::{News, Place, Source, Status, Watcher, has_told_nothing, next_set, spawn};

/// For what should come soon, on a loaded machine.
const PATIENT: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);

/// A directory of the test's own, gone with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static N: AtomicU32 = AtomicU32::new(0);
        let name = format!("xlb-file-{}-{}", std::process::id(), N.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// As careful writers do.
    fn replace(&self, name: &str, text: &str) {
        self.write(".new", text);
        std::fs::rename(self.path(".new"), self.path(name)).unwrap();
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A watched file, and what was told of it.
struct Watched {
    watcher: Watcher,
    told: mpsc::Receiver<News>,
}

impl Watched {
    fn new(path: PathBuf) -> Self {
        Self::with(path, HOUR, Trust { stale: None, min_hosts: 0 })
    }

    fn with(path: PathBuf, interval: Duration, trust: Trust) -> Self {
        let text = "[xdp]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nvip = \"192.0.2.1\"\nport = 80\nforward = \"nat\"\n\
                    dns.name = \"a.b\"\n";
        let place = Place::of(&crate::config::parse("test.toml", text).unwrap().services[0]);
        let format = if path.extension().is_some_and(|ending| ending == "json") { FileFormat::Json } else { FileFormat::Toml };
        let file = File { path, format, port: 80, weight: 1, interval, trust };
        let (send, told) = mpsc::channel(8);
        Self { watcher: spawn("web".into(), Source::File(file), place, send), told }
    }

    /// The next set, as the last bytes of its addresses.
    async fn next(&mut self) -> Vec<u8> {
        let backends = timeout(PATIENT, next_set(&mut self.told)).await.expect("a set in time").unwrap();
        backends.keys().map(|endpoint| endpoint.to_string().split(['.', ':']).nth(3).unwrap().parse().unwrap()).collect()
    }

    fn has_told_nothing(&mut self) -> bool {
        has_told_nothing(&mut self.told)
    }

    async fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) {
        let waiting = async {
            while !holds(&self.watcher.status()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENT, waiting).await.unwrap_or_else(|_| panic!("{what}: {:?}", self.watcher.status()));
    }

    async fn fails_with(&self, text: &str) {
        let says = |status: &Status| status.last_error.as_deref().is_some_and(|error| error.contains(text));
        self.until(text, says).await;
    }
}

fn json(hosts: &[u8]) -> String {
    let targets: Vec<String> = hosts.iter().map(|host| format!("\"10.0.0.{host}:80\"")).collect();
    format!("[{{\"targets\": [{}]}}]", targets.join(", "))
}

fn toml(hosts: &[u8]) -> String {
    hosts.iter().map(|host| format!("[[backend]]\naddress = \"10.0.0.{host}\"\n")).collect()
}

#[tokio::test]
async fn a_file_is_followed_however_it_is_replaced() {
    let directory = Directory::new();
    directory.write("web.json", &json(&[1, 2]));
    let mut watched = Watched::new(directory.path("web.json"));
    assert_eq!(watched.next().await, [1, 2]);
    directory.replace("web.json", &json(&[2, 3]));
    assert_eq!(watched.next().await, [2, 3]);
    directory.write("web.json", &json(&[4]));
    assert_eq!(watched.next().await, [4]);
    // Gone and back: nothing leaves in between.
    std::fs::remove_file(directory.path("web.json")).unwrap();
    watched.fails_with("No such file").await;
    assert!(watched.has_told_nothing() && watched.watcher.status().stale);
    directory.write("web.json", &json(&[5]));
    assert_eq!(watched.next().await, [5]);
    assert_eq!(watched.watcher.status().last_error, None);
    // Said to be nobody is not gone.
    directory.replace("web.json", "[]");
    assert_eq!(watched.next().await, Vec::<u8>::new());
}

#[tokio::test]
async fn a_link_that_is_switched_far_above_is_noticed() {
    let directory = Directory::new();
    for (version, host) in [("..1", 1), ("..2", 2), ("..3", 3)] {
        std::fs::create_dir(directory.path(version)).unwrap();
        directory.write(&format!("{version}/web.json"), &json(&[host]));
    }
    symlink("..1", directory.path("..data")).unwrap();
    symlink("..data/web.json", directory.path("web.json")).unwrap();
    let mut watched = Watched::new(directory.path("web.json"));
    assert_eq!(watched.next().await, [1]);
    let switch = |version: &str| {
        symlink(version, directory.path("..data_tmp")).unwrap();
        std::fs::rename(directory.path("..data_tmp"), directory.path("..data")).unwrap();
    };
    switch("..2");
    std::fs::remove_dir_all(directory.path("..1")).unwrap();
    assert_eq!(watched.next().await, [2]);
    // What is watched has moved along.
    directory.replace("..2/web.json", &json(&[9]));
    assert_eq!(watched.next().await, [9]);
    switch("..3");
    assert_eq!(watched.next().await, [3]);
}

#[tokio::test]
async fn a_file_that_is_half_written_is_not_read_before_it_is_closed() {
    let directory = Directory::new();
    directory.write("web.toml", &toml(&[1, 2, 3]));
    let mut watched = Watched::with(directory.path("web.toml"), Duration::from_secs(1), Trust { stale: None, min_hosts: 0 });
    assert_eq!(watched.next().await, [1, 2, 3]);
    // Every line that was written is right, and most backends are missing.
    let mut writer = std::fs::File::create(directory.path("web.toml")).unwrap();
    writer.write_all(toml(&[4]).as_bytes()).unwrap();
    watched.fails_with("not closed it yet").await;
    assert!(watched.has_told_nothing());
    writer.write_all(toml(&[5, 6]).as_bytes()).unwrap();
    assert!(watched.has_told_nothing());
    drop(writer);
    assert_eq!(watched.next().await, [4, 5, 6]);
}

#[tokio::test]
async fn what_cannot_be_read_keeps_the_last_good_one_and_is_told_with_its_place() {
    let directory = Directory::new();
    directory.write("web.json", &json(&[1]));
    let mut watched = Watched::new(directory.path("web.json"));
    assert_eq!(watched.next().await, [1]);
    let path = directory.path("web.json").display().to_string();
    for (text, place) in
        [("", ":1:1: the file is empty"), ("[\n{\"targets\":", ":2:11: EOF"), ("[{\"targets\": [\"x\"]}]", ":1:17: invalid")]
    {
        directory.replace("web.json", text);
        watched.fails_with(&format!("{path}{place}")).await;
    }
    std::fs::write(directory.path(".new"), [0xff, 0xfe]).unwrap();
    std::fs::rename(directory.path(".new"), directory.path("web.json")).unwrap();
    watched.fails_with("not UTF-8").await;
    std::fs::remove_file(directory.path("web.json")).unwrap();
    std::fs::create_dir(directory.path("web.json")).unwrap();
    watched.fails_with("not a regular file").await;
    std::fs::remove_dir(directory.path("web.json")).unwrap();
    let fifo = std::process::Command::new("mkfifo").arg(directory.path("web.json")).status().unwrap();
    assert!(fifo.success());
    watched.fails_with("not a regular file").await;
    let status = watched.watcher.status();
    assert!(watched.has_told_nothing() && status.stale && status.n_hosts == 1, "{status:?}");
    directory.replace("web.json", &json(&[2]));
    assert_eq!(watched.next().await, [2]);
}

#[tokio::test]
async fn a_directory_that_is_not_there_yet_is_waited_for() {
    let directory = Directory::new();
    let mut watched = Watched::new(directory.path("made/later/web.json"));
    watched.fails_with("No such file").await;
    std::fs::create_dir_all(directory.path("made/later")).unwrap();
    directory.write("made/later/web.json", &json(&[1]));
    assert_eq!(watched.next().await, [1]);
}

#[tokio::test]
async fn what_nobody_tells_of_is_found_by_the_next_look() {
    let directory = Directory::new();
    directory.write("web.json", &json(&[1]));
    let path = directory.path("web.json");
    // A lookout that is blind, as on another machine's file system.
    let (_, looked) = look(Lookout::blind(&path), path.clone()).await.unwrap();
    // It was written a moment ago, and nobody says that its writer is done.
    let Looked::Restless(wait) = looked else { panic!("it was read at once") };
    assert!(wait <= REST);
    tokio::time::sleep(wait).await;
    let (lookout, looked) = look(Lookout::blind(&path), path.clone()).await.unwrap();
    assert!(!lookout.is_written());
    assert!(matches!(looked, Looked::Read(Ok(text)) if text == json(&[1])));
}

#[tokio::test]
async fn hosts_that_cannot_be_backends_are_counted_and_the_others_taken() {
    let directory = Directory::new();
    directory.write("web.json", "[{\"targets\": [\"10.0.0.1:80\", \"127.0.0.1:80\", \"10.0.0.2:0\", \"[2001:db8::1]:80\"]}]");
    let mut watched = Watched::new(directory.path("web.json"));
    assert_eq!(watched.next().await, [1]);
    watched.until("a count", |status| status.n_refused == 3).await;
    // A list of nobody but such says nothing of who is there.
    directory.replace("web.json", "[{\"targets\": [\"127.0.0.1:80\"]}]");
    watched.fails_with("no usable host").await;
    assert!(watched.has_told_nothing());
}
