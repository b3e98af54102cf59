//! The API under those who mean it ill, or do it wrong: a reason for each, and traffic that notices nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use xlb_tests::{Backend, Connections, Daemon, Network, http, until};

use super::support::{LIMIT, Service, vip};

const TOKEN: &str = "a-token-of-more-than-16-characters";
const API: &str = "http://127.0.0.1:9400";
const DRAIN: &str = "/api/v1/services/web/backends/10.2.0.10/drain";

/// Method, path, token and body, and what they are answered with: the code, and a part of the reason.
type Case<'c> = (&'c str, &'c str, Option<&'c str>, &'c str, u16, &'c str);

struct Scene {
    network: Network,
    _backends: Vec<Backend>,
    daemon: Daemon,
    directory: tempfile::TempDir,
}

impl Scene {
    fn new() -> Result<Self> {
        let network = Network::dsr(2, &[vip()])?;
        let backends = Backend::start_all(&network, 80, &[vip()])?;
        let directory = tempfile::tempdir()?;
        let token = directory.path().join("token");
        std::fs::write(&token, format!("{TOKEN}\n"))?;
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600))?;
        let keys = format!("token_file = {token:?}\naudit_file = {:?}\n", directory.path().join("audit.jsonl"));
        let hosts = &network.backends;
        let web = Service::new("web", vip(), 80).backends(hosts, true).toml();
        let pair = Service::new("pair", vip(), 81).with("failback", "manual");
        let pair = pair.backend(hosts[0].v4, "").backend(hosts[1].v4, "priority = 1").toml();
        let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(web + &pair).api_keys(keys).start()?;
        Ok(Self { network, _backends: backends, daemon, directory })
    }

    fn ask(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> Result<http::Answer> {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = authorization.iter().map(|value| ("Authorization", value.as_str())).collect();
        http::send(&self.network.lb.netns, method, &format!("{API}{path}"), &headers, body)
    }

    fn connect(&self) -> Result<TcpStream> {
        self.network.lb.netns.enter(|| http::connect("127.0.0.1:9400".parse()?, None, Duration::from_secs(40)))
    }

    /// Traffic that must notice nothing.
    fn connections(&self) -> Result<Connections> {
        let (interval, limit) = (Duration::from_millis(20), Duration::from_secs(5));
        Connections::open(&self.network.client.netns, (vip(), 80).into(), 50, interval, limit)
    }

    fn audit(&self) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(self.directory.path().join("audit.jsonl"))?;
        text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn whatever_is_wrong_gets_a_reason_and_changes_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let connections = scene.connections()?;
    let huge = format!("{{\"deadline\": \"{}\"}}", "x".repeat(100_000));
    let deep = "[".repeat(10_000);
    let weight = DRAIN.replace("drain", "weight");
    let cases: [Case<'_>; 18] = [
        ("POST", DRAIN, None, "", 403, "Authorization: Bearer"),
        ("POST", DRAIN, Some("wrong"), "", 403, "not the token"),
        ("POST", DRAIN, Some(&TOKEN[1..]), "", 403, "not the token"),
        ("POST", "/api/v1/reset", None, "{}", 403, "Authorization"),
        ("POST", "/api/v1/reload", Some(""), "", 403, "Authorization: Bearer"),
        ("POST", "/api/v1/check", None, "", 403, "Authorization"),
        ("GET", DRAIN, Some(TOKEN), "", 405, "does not take GET"),
        ("DELETE", "/lb/status", Some(TOKEN), "", 405, "does not take DELETE"),
        ("POST", "/api/v2/drain", Some(TOKEN), "", 404, "openapi.json"),
        ("POST", DRAIN, Some(TOKEN), &huge, 413, "more than 16384 bytes"),
        ("POST", DRAIN, Some(TOKEN), "{\"deadline\"", 400, "not what belongs here"),
        ("POST", DRAIN, Some(TOKEN), &deep, 400, "not what belongs here"),
        ("POST", DRAIN, Some(TOKEN), "{\"dedline\": \"1m\"}", 400, "unknown field `dedline`"),
        ("PUT", &weight, Some(TOKEN), "{\"weight\": 65536}", 400, "65536"),
        ("PUT", &weight, Some(TOKEN), "{}", 400, "missing field `weight`"),
        ("POST", "/api/v1/services/nope/maintenance", Some(TOKEN), "{\"on\": true}", 404, "there is web"),
        ("POST", "/api/v1/services/web/backends", Some(TOKEN), "{\"address\": \"127.0.0.1\"}", 422, "loopback"),
        ("POST", "/api/v1/check", Some(TOKEN), "[xdp]\nport = 1\n", 422, "unknown key `port`"),
    ];
    for (method, path, token, body, code, reason) in cases {
        let answer = scene.ask(method, path, token, body)?;
        let error = serde_json::from_str::<Value>(&answer.body).with_context(|| format!("{method} {path}: {answer:?}"))?;
        let told = error["error"].as_str().unwrap_or_default();
        ensure!(answer.status == code && told.contains(reason), "{method} {path}: {answer:?}");
    }
    let runtime: Value = serde_json::from_str(&scene.daemon.get("/api/v1/runtime")?.body)?;
    ensure!(runtime["services"] == json!({}), "{runtime:#}");
    let done = scene.ask("POST", DRAIN, Some(TOKEN), "{\"deadline\": \"10m\"}")?;
    ensure!(done.status == 200 && done.body.contains("drains"), "{done:?}");
    until(LIMIT, "the audit log to say so", || Ok(scene.audit()?.iter().any(|line| line["verdict"] == "done").then_some(())))?;
    let audit = scene.audit()?;
    let done = audit.iter().find(|line| line["verdict"] == "done").context("a line")?;
    ensure!(done["by"] == "token, from 127.0.0.1" && done["what"]["deadline"] == "10m", "{done:#}");
    let stranger = audit.iter().find(|line| line["error"] == "this is not the token").context("a line on who was refused")?;
    ensure!(stranger["by"].is_null() && stranger["request"] == format!("POST {DRAIN}"), "{stranger:#}");
    ensure!(!audit.iter().any(|line| line.to_string().contains(TOKEN)), "the token stands in the audit log");
    ensure!(!scene.daemon.log().contains(TOKEN), "the token stands in the log");
    ensure!(scene.daemon.metric("xlb_runtime_changes_total{result=\"done\"}")? == 1.0);
    ensure!(scene.daemon.metric("xlb_runtime_changes_total{result=\"refused\"}")? >= 12.0);
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}");
    scene.daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn slow_clients_and_floods_hold_up_neither_traffic_nor_the_operator() -> Result<()> {
    let scene = Scene::new()?;
    let connections = scene.connections()?;
    // More than the port admits, each with half a request.
    let mut slow: Vec<TcpStream> = (0..600).map(|_| scene.connect()).collect::<Result<_>>()?;
    for stream in &mut slow {
        write!(stream, "POST {DRAIN} HTTP/1.1\r\nHost: x\r\n")?;
    }
    // The socket has places of its own.
    let told = scene.daemon.xlb(&["weight", "web", "10.2.0.10", "2"])?;
    ensure!(told.contains("weight 2"), "{told}");
    // One that promises a body and sends none is told so, once the half requests have been given up.
    let mut late = scene.connect()?;
    write!(late, "POST {DRAIN} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 5\r\n\r\n")?;
    let mut answer = [0; 12];
    late.read_exact(&mut answer)?;
    ensure!(&answer == b"HTTP/1.1 408", "{}", String::from_utf8_lossy(&answer));
    let mut ended = slow.swap_remove(0);
    let mut rest = Vec::new();
    // Told or not, the connection is over.
    let _ = ended.read_to_end(&mut rest);
    ensure!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&rest));
    drop(slow);
    for n in 0..500 {
        let answer =
            scene.ask("PUT", &DRAIN.replace("drain", "weight"), Some(TOKEN), &format!("{{\"weight\": {}}}", 1 + n % 3))?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    for _ in 0..500 {
        ensure!(scene.ask("POST", DRAIN, Some("wrong"), "")?.status == 403);
    }
    ensure!(scene.daemon.get("/health/live")?.status == 200);
    let strangers = scene.audit()?.iter().filter(|line| line["by"].is_null()).count();
    ensure!((1..400).contains(&strangers), "{strangers} lines about strangers");
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}\n{}", scene.daemon.log());
    scene.daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn the_socket_is_for_those_whom_it_was_given_to() -> Result<()> {
    let scene = Scene::new()?;
    let socket = scene.daemon.own_directory().join("xlb.sock");
    ensure!(std::fs::metadata(&socket)?.permissions().mode() & 0o777 == 0o660);
    let drain = |arguments: &[&str]| -> Result<String> {
        let mut command = scene.network.lb.netns.command("setpriv");
        command.args(arguments).arg(xlb_tests::paths::xlb()?).args(["drain", "web", "10.2.0.10", "--socket"]).arg(&socket);
        let output = command.output()?;
        Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let told = drain(&["--reuid", "65534", "--regid", "65534", "--clear-groups"])?;
    ensure!(told.contains("Permission denied") && told.contains("members of api.socket_gid may ask there"), "{told}");
    // By whatever way somebody else came in: the kernel says who it is.
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666))?;
    let told = drain(&["--reuid", "65534", "--regid", "65534", "--clear-groups"])?;
    ensure!(told.contains("uid 65534 may not make changes") && told.contains("socket_gid"), "{told}");
    // The second daemon does not take it away from the first.
    let other = scene.daemon.builder().api("127.0.0.1:9401").start_unready()?;
    until(LIMIT, "the other to say so", || Ok(other.log().contains("another process answers there").then_some(())))?;
    drop(other);
    ensure!(drain(&["--reuid", "0"])?.contains("drains"));
    scene.daemon.stop()?;
    ensure!(!socket.exists(), "the socket goes with its daemon");
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn every_route_that_is_described_answers_as_described() -> Result<()> {
    let scene = Scene::new()?;
    let description: Value = serde_json::from_str(&scene.daemon.get("/api/v1/openapi.json")?.body)?;
    let config = std::fs::read_to_string(scene.daemon.config())?;
    for (path, methods) in description["paths"].as_object().context("paths")? {
        for (method, operation) in methods.as_object().context("methods")? {
            // Only where failback is manual is there anything to bring back.
            let service = if path.ends_with("/failback") { "pair" } else { "web" };
            let place = path.replace("{service}", service).replace("{backend}", "10.2.0.10");
            let place = place + &query(operation);
            // Packets are told for a time only, here a short one; and to those alone who may change something.
            let is_trace = path == "/api/v1/trace";
            let place = if is_trace { place + "?duration=100ms" } else { place };
            let method = method.to_uppercase();
            if path == "/api/v1/events" {
                let mut stream = scene.connect()?;
                write!(stream, "GET {place} HTTP/1.1\r\nHost: x\r\n\r\n")?;
                let mut answer = [0; 15];
                stream.read_exact(&mut answer)?;
                ensure!(&answer == b"HTTP/1.1 200 OK", "{}", String::from_utf8_lossy(&answer));
                continue;
            }
            let content = &operation["requestBody"]["content"];
            let schema = &content["application/json"]["schema"];
            let body = if content["application/toml"].is_object() { config.clone() } else { example(schema).to_string() };
            let answer = scene.ask(&method, &place, Some(TOKEN), &body)?;
            ensure!(answer.status == 200, "{method} {place} {body}: {answer:?}");
            if schema.is_object() {
                let mut more = example(schema);
                more["no_such_key"] = json!(1);
                let refused = scene.ask(&method, &place, Some(TOKEN), &more.to_string())?;
                ensure!(refused.status == 400 && refused.body.contains("no_such_key"), "{method} {place}: {refused:?}");
            }
            if method != "GET" || is_trace {
                let without = scene.ask(&method, &place, None, &body)?;
                ensure!(without.status == 403, "{method} {place} without a token: {without:?}");
            }
            let reset = scene.ask("POST", "/api/v1/reset", Some(TOKEN), "")?;
            ensure!(reset.status == 200, "{reset:?}");
        }
    }
    scene.daemon.stop()
}

/// What an operation's query has to have, by the examples of its description.
fn query(operation: &Value) -> String {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let needed = parameters.filter(|parameter| parameter["in"] == "query" && parameter["required"] == true);
    let pair = |parameter: &Value| Some(format!("{}={}", parameter["name"].as_str()?, parameter["example"].as_str()?));
    let pairs: Vec<String> = needed.filter_map(pair).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

/// The least that a schema asks for.
fn example(schema: &Value) -> Value {
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let of = |key: &str| match schema["properties"][key]["type"].as_str() {
        Some("integer") => json!(2),
        Some("boolean") => json!(true),
        _ => json!("10.2.0.99"),
    };
    required.map(|key| (key.to_owned(), of(key))).collect::<serde_json::Map<_, _>>().into()
}
