//! The watching, against a daemon that says what it is told to. A real one is in `tests/net/docker.rs`.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::config::Trust;
use crate::discovery::{News, Place, Source, Status, Watcher, has_told_nothing, next_set, spawn};

/// For what should come soon, on a loaded machine.
const PATIENT: Duration = Duration::from_secs(30);

/// What it answers a list with: the whole answer.
#[derive(Default)]
struct Says {
    list: String,
    /// The streams of events that are open.
    events: Vec<UnixStream>,
    asked: Vec<String>,
}

/// Docker, as far as a watcher sees it.
struct Fake {
    socket: PathBuf,
    says: Arc<Mutex<Says>>,
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Containers with these ids, which are the last bytes of their addresses too.
fn list(ids: &[u8]) -> String {
    let container = |id: &u8| {
        format!(
            "{{\"Id\":\"{id}\",\"Names\":[\"/web-{id}\"],\"Labels\":{{\"xlb.service\":\"web\"}},\
             \"NetworkSettings\":{{\"Networks\":{{\"app\":{{\"IPAddress\":\"172.28.0.{id}\"}}}}}}}}"
        )
    };
    ok(&format!("[{}]", ids.iter().map(container).collect::<Vec<_>>().join(",")))
}

impl Fake {
    fn start(test: &str, list: String) -> Self {
        let socket = std::env::temp_dir().join(format!("xlb-docker-{test}-{}.sock", std::process::id()));
        let says = Arc::new(Mutex::new(Says { list, ..Says::default() }));
        let fake = Self { socket, says };
        fake.listen();
        fake
    }

    fn listen(&self) {
        let _ = std::fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket).unwrap();
        let says = Arc::clone(&self.says);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &says);
            }
        });
    }

    fn set(&self, list: String) {
        self.says.lock().unwrap().list = list;
    }

    /// Sends an event to all that listen.
    fn tell(&self, action: &str, id: u8, attributes: &str) {
        let event = format!(
            "{{\"Type\":\"container\",\"Action\":\"{action}\",\"Actor\":{{\"ID\":\"{id}\",\
             \"Attributes\":{{\"xlb.service\":\"web\"{attributes}}}}}}}\n"
        );
        self.send(&event);
    }

    fn send(&self, text: &str) {
        use std::io::Write;
        let mut says = self.says.lock().unwrap();
        // Who has gone listens no more.
        says.events.retain_mut(|stream| write!(stream, "{:x}\r\n{text}\r\n", text.len()).is_ok());
    }

    /// As a daemon that ends: nobody listens, and who was connected is cut off.
    fn stop(&self) {
        std::fs::remove_file(&self.socket).unwrap();
        self.says.lock().unwrap().events.clear();
    }

    fn watched(&self, trust: Trust) -> Watched {
        let text = "[xdp]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nvip = \"192.0.2.1\"\nport = 80\nforward = \"nat\"\n\
                    docker.network = \"app\"\n";
        let service = crate::config::parse("test.toml", text).unwrap().services.remove(0);
        let place = Place::of(&service);
        let docker = Docker { socket: self.socket.clone(), trust, ..service.docker.unwrap() };
        let (send, told) = mpsc::channel(8);
        Watched { watcher: spawn("web".into(), Source::Docker(docker), place, send), told }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// One request, one answer.
fn serve(stream: UnixStream, says: &Mutex<Says>) {
    use std::io::{BufRead, BufReader, Write};
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut request, mut line) = (String::new(), String::from("x"));
    while !line.trim_end().is_empty() {
        line.clear();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        request.push_str(&line);
    }
    let mut stream = stream;
    let mut says = says.lock().unwrap();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    if path.starts_with("/events") {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        says.events.push(stream);
    } else {
        let _ = stream.write_all(says.list.as_bytes());
    }
    says.asked.push(path);
}

struct Watched {
    watcher: Watcher,
    told: mpsc::Receiver<News>,
}

impl Watched {
    /// The next set, as the last bytes of its addresses.
    async fn next(&mut self) -> Vec<u8> {
        let backends = timeout(PATIENT, next_set(&mut self.told)).await.expect("a set in time").unwrap();
        let last = |endpoint: &std::net::SocketAddr| match endpoint.ip() {
            std::net::IpAddr::V4(v4) => v4.octets()[3],
            std::net::IpAddr::V6(v6) => v6.octets()[15],
        };
        backends.keys().map(last).collect()
    }

    fn has_told_nothing(&mut self) -> bool {
        has_told_nothing(&mut self.told)
    }

    async fn until(&self, holds: impl Fn(&Status) -> bool) {
        let waiting = async {
            while !holds(&self.watcher.status()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENT, waiting).await.unwrap_or_else(|_| panic!("{:?}", self.watcher.status()));
    }

    async fn fails_with(&self, text: &str) {
        self.until(|status| status.last_error.as_deref().is_some_and(|error| error.contains(text))).await;
    }
}

const TRUST: Trust = Trust { stale: None, min_hosts: 0 };

#[tokio::test]
async fn containers_come_by_events_and_leave_when_they_are_told_to_end() {
    let docker = Fake::start("events", list(&[1, 2]));
    let mut watched = docker.watched(TRUST);
    assert_eq!(watched.next().await, [1, 2]);
    docker.set(list(&[1, 2, 3]));
    docker.tell("start", 3, "");
    assert_eq!(watched.next().await, [1, 2, 3]);
    // It still runs, and has time to answer what it was asked.
    docker.tell("kill", 2, ",\"signal\":\"15\"");
    assert_eq!(watched.next().await, [1, 3]);
    docker.tell("kill", 3, ",\"signal\":\"1\"");
    docker.set(list(&[1, 3]));
    docker.tell("die", 2, "");
    // It starts again, under the same id.
    docker.set(list(&[1, 2, 3]));
    docker.tell("start", 2, "");
    assert_eq!(watched.next().await, [1, 2, 3]);
    docker.set(list(&[]));
    docker.tell("die", 1, "");
    assert_eq!(watched.next().await, Vec::<u8>::new());
    let asked = docker.says.lock().unwrap().asked.clone();
    let label = "label%22%3A%5B%22xlb%2Eservice%3Dweb%22%5D";
    assert!(asked[0].starts_with("/events?filters=") && asked[1].contains(label), "{asked:?}");
}

#[tokio::test]
async fn the_last_good_list_stays_while_the_daemon_is_away_or_makes_no_sense() {
    let docker = Fake::start("away", list(&[1, 2]));
    let mut watched = docker.watched(TRUST);
    assert_eq!(watched.next().await, [1, 2]);
    docker.stop();
    watched.fails_with("is Docker running?").await;
    assert!(watched.has_told_nothing() && watched.watcher.status().stale);
    docker.set(ok("{\"oops\": 1}"));
    docker.listen();
    watched.fails_with("Docker's list of containers").await;
    docker.set("HTTP/1.1 500 X\r\nContent-Length: 20\r\n\r\n{\"message\":\"no luck\"}".replace("20", "21"));
    watched.fails_with("500 Internal Server Error: no luck").await;
    docker.set("garbage\r\n\r\n".into());
    watched.fails_with("docker-away").await;
    assert!(watched.has_told_nothing());
    docker.set(list(&[2]));
    assert_eq!(watched.next().await, [2]);
    watched.until(|status| !status.stale && status.last_error.is_none()).await;
    docker.send("this is no event\n");
    watched.fails_with("Docker's events").await;
    watched.until(|status| status.last_error.is_none()).await;
    assert!(watched.has_told_nothing());
}

#[tokio::test]
async fn a_list_with_too_few_is_not_taken_and_the_rest_is() {
    let docker = Fake::start("few", list(&[1, 2, 3]));
    let mut watched = docker.watched(Trust { min_hosts: 2, ..TRUST });
    assert_eq!(watched.next().await, [1, 2, 3]);
    docker.set(list(&[1]));
    docker.tell("die", 2, "");
    watched.until(|status| status.n_too_few > 0).await;
    docker.set(list(&[1, 4]));
    docker.tell("start", 4, "");
    assert_eq!(watched.next().await, [1, 4]);
}
