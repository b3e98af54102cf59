//! What is accepted, what it means, and that nothing whatever makes the parser panic.

mod admission;
mod errors;
mod failover;
mod fullnat;
mod health;
mod quic;
mod zones;

use std::fmt::Write as _;
use std::time::Duration;

use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::health::Probe;

const MINIMAL: &str = include_str!("../../../../config/minimal.toml");
const FULL: &str = include_str!("../../../../config/full.toml");

fn accepted(text: &str) -> Config {
    parse("xlb.toml", text).unwrap_or_else(|error| panic!("{error}"))
}

fn service(lines: &str) -> Service {
    let text = format!("[xdp]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nvip = \"192.0.2.1\"\n{lines}");
    accepted(&text).services.remove(0)
}

#[test]
fn the_minimal_file_takes_every_default() {
    expect![[r#"
        Config {
            xdp: Xdp {
                interfaces: [
                    "eth0",
                ],
                mode: Auto,
                pin: "/sys/fs/bpf/xlb",
                on_exit: Detach,
                secret_file: None,
            },
            api: Api {
                listen: 127.0.0.1:9400,
                socket: "/run/xlb/xlb.sock",
                socket_gid: None,
                tls: None,
                token_file: None,
                state_file: "/var/lib/xlb/xlb.json",
                audit_file: None,
            },
            limits: Limits {
                slots: 16777216,
                flows: 1048576,
                prefixes: 65536,
                sources: 131072,
            },
            steering: Range {
                first_table: 2020343808,
                priority: 120,
            },
            node: Node {
                zone: None,
            },
            admission: Admission {
                all_vips: Rules {
                    lists: Lists {
                        deny: List {
                            prefixes: [],
                            files: [],
                            read: [],
                        },
                        allow: List {
                            prefixes: [],
                            files: [],
                            read: [],
                        },
                    },
                    limits: Limits {
                        limits: [
                            Limit {
                                interval: 0,
                                burst: 0,
                            },
                            Limit {
                                interval: 0,
                                burst: 0,
                            },
                            Limit {
                                interval: 0,
                                burst: 0,
                            },
                            Limit {
                                interval: 0,
                                burst: 0,
                            },
                        ],
                        source_bits_v4: 32,
                        source_bits_v6: 64,
                    },
                },
                services: {},
            },
            watchdog: None,
            pool: Pool {
                addresses: [],
                ports: 10240..=65535,
            },
            services: [
                Service {
                    name: "web",
                    vip: 192.0.2.1,
                    port: 80,
                    protocol: Tcp,
                    algorithm: Maglev,
                    hashing: Hashing {
                        client_prefix: None,
                        max_load: None,
                    },
                    forward: Dsr,
                    gue_port: 6080,
                    mss: None,
                    toa: false,
                    idle: 900s,
                    on_down: Remap,
                    is_tracked: false,
                    failover: Rules {
                        failback: Auto,
                        minimum: None,
                        panic_percent: 0,
                        slow_start: None,
                    },
                    zones: None,
                    health: Checks {
                        mode: All,
                        list: [
                            Check {
                                probe: Tcp,
                                port: None,
                                interval: 1s,
                                timeout: 500ms,
                                rise: 2,
                                fall: 2,
                                backoff_max: None,
                                degraded: None,
                                path: None,
                            },
                        ],
                        breaker: None,
                        passive: None,
                        flapping: Rules {
                            changes: 6,
                            window: 300s,
                            hold: None,
                            hold_max: 600s,
                        },
                        ejected_max_percent: 50,
                    },
                    server_ids: None,
                    backends: [
                        Backend {
                            endpoint: 10.0.1.1:80,
                            weight: 1,
                            tier: Priority(
                                0,
                            ),
                            zone: None,
                        },
                        Backend {
                            endpoint: 10.0.1.2:80,
                            weight: 1,
                            tier: Priority(
                                0,
                            ),
                            zone: None,
                        },
                    ],
                    dns: None,
                    file: None,
                    docker: None,
                    ranks: {},
                },
            ],
        }
    "#]]
    .assert_debug_eq(&accepted(MINIMAL));
}

#[test]
fn the_full_file_says_what_it_shows() {
    expect![[r#"
        Config {
            xdp: Xdp {
                interfaces: [
                    "eth0",
                    "eth1",
                ],
                mode: Auto,
                pin: "/sys/fs/bpf/xlb",
                on_exit: Detach,
                secret_file: Some(
                    "/etc/xlb/secret",
                ),
            },
            api: Api {
                listen: 127.0.0.1:9400,
                socket: "/run/xlb/xlb.sock",
                socket_gid: Some(
                    27,
                ),
                tls: Some(
                    ApiTls {
                        certificate: "/etc/xlb/api.pem",
                        key: "/etc/xlb/api.key",
                    },
                ),
                token_file: Some(
                    "/etc/xlb/token",
                ),
                state_file: "/var/lib/xlb/xlb.json",
                audit_file: Some(
                    "/var/log/xlb/audit.jsonl",
                ),
            },
            limits: Limits {
                slots: 16777216,
                flows: 1048576,
                prefixes: 65536,
                sources: 131072,
            },
            steering: Range {
                first_table: 2020343808,
                priority: 120,
            },
            node: Node {
                zone: Some(
                    "a",
                ),
            },
            admission: Admission {
                all_vips: Rules {
                    lists: Lists {
                        deny: List {
                            prefixes: [
                                198.51.100.0/24,
                                2001:db8:bad::/48,
                            ],
                            files: [
                                "/etc/xlb/deny.txt",
                            ],
                            read: [],
                        },
                        allow: List {
                            prefixes: [
                                0.0.0.0/0,
                                ::/0,
                            ],
                            files: [
                                "/etc/xlb/allow.txt",
                            ],
                            read: [],
                        },
                    },
                    limits: Limits {
                        limits: [
                            Limit {
                                interval: 12500,
                                burst: 40000,
                            },
                            Limit {
                                interval: 2500000,
                                burst: 200,
                            },
                            Limit {
                                interval: 50,
                                burst: 5000000,
                            },
                            Limit {
                                interval: 1250,
                                burst: 200000,
                            },
                        ],
                        source_bits_v4: 32,
                        source_bits_v6: 64,
                    },
                },
                services: {
                    "web": Rules {
                        lists: Lists {
                            deny: List {
                                prefixes: [],
                                files: [],
                                read: [],
                            },
                            allow: List {
                                prefixes: [
                                    203.0.113.0/24,
                                    198.51.100.7/32,
                                ],
                                files: [],
                                read: [],
                            },
                        },
                        limits: Limits {
                            limits: [
                                Limit {
                                    interval: 0,
                                    burst: 0,
                                },
                                Limit {
                                    interval: 0,
                                    burst: 0,
                                },
                                Limit {
                                    interval: 0,
                                    burst: 0,
                                },
                                Limit {
                                    interval: 0,
                                    burst: 0,
                                },
                            ],
                            source_bits_v4: 32,
                            source_bits_v6: 64,
                        },
                    },
                },
            },
            watchdog: Some(
                Watchdog {
                    after: 60s,
                    absence: Pass,
                },
            ),
            pool: Pool {
                addresses: [
                    10.0.1.250,
                    fd01::250,
                ],
                ports: 10240..=65535,
            },
            services: [
                Service {
                    name: "web",
                    vip: 192.0.2.1,
                    port: 80,
                    protocol: Tcp,
                    algorithm: Maglev,
                    hashing: Hashing {
                        client_prefix: None,
                        max_load: Some(
                            125,
                        ),
                    },
                    forward: Nat,
                    gue_port: 6080,
                    mss: None,
                    toa: false,
                    idle: 900s,
                    on_down: Remap,
                    is_tracked: true,
                    failover: Rules {
                        failback: Auto,
                        minimum: Some(
                            Percent(
                                50,
                            ),
                        ),
                        panic_percent: 30,
                        slow_start: Some(
                            30s,
                        ),
                    },
                    zones: Some(
                        Rules {
                            spread: Weights(
                                {
                                    "a": 50,
                                    "b": 30,
                                    "c": 20,
                                },
                            ),
                            overprovision: 140,
                        },
                    ),
                    health: Checks {
                        mode: All,
                        list: [
                            Check {
                                probe: Http(
                                    Http {
                                        method: GET,
                                        path: "/health",
                                        host: Some(
                                            "www.example.org",
                                        ),
                                        expect: 200..=299,
                                        body: Some(
                                            "ok",
                                        ),
                                        tls: None,
                                    },
                                ),
                                port: Some(
                                    8080,
                                ),
                                interval: 1s,
                                timeout: 500ms,
                                rise: 2,
                                fall: 2,
                                backoff_max: Some(
                                    10s,
                                ),
                                degraded: Some(
                                    Degraded {
                                        above: 200ms,
                                        percent: 25,
                                    },
                                ),
                                path: None,
                            },
                        ],
                        breaker: Some(
                            Rules {
                                errors_percent: 40,
                                window: 30s,
                                requests_min: 10,
                                ejection: 10s,
                                ejection_max: 300s,
                            },
                        ),
                        passive: Some(
                            Rules {
                                unanswered_percent: 50,
                                window: 10s,
                                handshakes_min: 5,
                            },
                        ),
                        flapping: Rules {
                            changes: 6,
                            window: 300s,
                            hold: Some(
                                30s,
                            ),
                            hold_max: 600s,
                        },
                        ejected_max_percent: 50,
                    },
                    server_ids: None,
                    backends: [
                        Backend {
                            endpoint: 10.0.1.1:8080,
                            weight: 1,
                            tier: Priority(
                                0,
                            ),
                            zone: Some(
                                "a",
                            ),
                        },
                        Backend {
                            endpoint: 10.0.1.2:8080,
                            weight: 2,
                            tier: Priority(
                                0,
                            ),
                            zone: Some(
                                "b",
                            ),
                        },
                        Backend {
                            endpoint: 10.0.2.1:8080,
                            weight: 1,
                            tier: Priority(
                                1,
                            ),
                            zone: Some(
                                "b",
                            ),
                        },
                        Backend {
                            endpoint: 10.0.3.1:8081,
                            weight: 2,
                            tier: Sorry,
                            zone: None,
                        },
                    ],
                    dns: Some(
                        Dns {
                            name: "api.internal",
                            record: Address,
                            port: 8080,
                            resolver: Some(
                                10.0.0.53:53,
                            ),
                            interval: 60s,
                            weight: 1,
                            trust: Trust {
                                stale: Some(
                                    43200s,
                                ),
                                min_hosts: 2,
                            },
                        },
                    ),
                    file: Some(
                        File {
                            path: "/etc/xlb/backends.json",
                            format: Json,
                            port: 8080,
                            weight: 1,
                            interval: 10s,
                            trust: Trust {
                                stale: Some(
                                    3600s,
                                ),
                                min_hosts: 1,
                            },
                        },
                    ),
                    docker: Some(
                        Docker {
                            socket: "/var/run/docker.sock",
                            labels: [
                                "xlb.service=web",
                            ],
                            network: Some(
                                "web_default",
                            ),
                            port: 8080,
                            weight: 1,
                            interval: 60s,
                            trust: Trust {
                                stale: Some(
                                    3600s,
                                ),
                                min_hosts: 1,
                            },
                        },
                    ),
                    ranks: {
                        File: Rank {
                            tier: Priority(
                                0,
                            ),
                            zone: Some(
                                "b",
                            ),
                        },
                        Docker: Rank {
                            tier: Priority(
                                0,
                            ),
                            zone: Some(
                                "a",
                            ),
                        },
                        Dns: Rank {
                            tier: Priority(
                                0,
                            ),
                            zone: Some(
                                "c",
                            ),
                        },
                    },
                },
                Service {
                    name: "names",
                    vip: 2001:db8::53,
                    port: 53,
                    protocol: Udp,
                    algorithm: IpHash,
                    hashing: Hashing {
                        client_prefix: Some(
                            56,
                        ),
                        max_load: None,
                    },
                    forward: Dsr,
                    gue_port: 6080,
                    mss: None,
                    toa: false,
                    idle: 10s,
                    on_down: Remap,
                    is_tracked: false,
                    failover: Rules {
                        failback: Auto,
                        minimum: None,
                        panic_percent: 0,
                        slow_start: None,
                    },
                    zones: None,
                    health: Checks {
                        mode: All,
                        list: [
                            Check {
                                probe: Dns(
                                    Dns {
                                        name: Name("www.example.org."),
                                        record: AAAA,
                                        expect: Records,
                                        over: Udp,
                                    },
                                ),
                                port: None,
                                interval: 1s,
                                timeout: 500ms,
                                rise: 2,
                                fall: 2,
                                backoff_max: None,
                                degraded: None,
                                path: None,
                            },
                        ],
                        breaker: None,
                        passive: None,
                        flapping: Rules {
                            changes: 6,
                            window: 300s,
                            hold: None,
                            hold_max: 600s,
                        },
                        ejected_max_percent: 50,
                    },
                    server_ids: None,
                    backends: [
                        Backend {
                            endpoint: [2001:db8:1::1]:53,
                            weight: 1,
                            tier: Priority(
                                0,
                            ),
                            zone: None,
                        },
                    ],
                    dns: None,
                    file: None,
                    docker: None,
                    ranks: {},
                },
                Service {
                    name: "game",
                    vip: 192.0.2.2,
                    port: 27015,
                    protocol: Udp,
                    algorithm: Maglev,
                    hashing: Hashing {
                        client_prefix: None,
                        max_load: None,
                    },
                    forward: Dsr,
                    gue_port: 6080,
                    mss: None,
                    toa: false,
                    idle: 10s,
                    on_down: Remap,
                    is_tracked: false,
                    failover: Rules {
                        failback: Auto,
                        minimum: None,
                        panic_percent: 0,
                        slow_start: None,
                    },
                    zones: None,
                    health: Checks {
                        mode: All,
                        list: [
                            Check {
                                probe: Udp(
                                    Udp {
                                        payload: [
                                            115,
                                            116,
                                            97,
                                            116,
                                            117,
                                            115,
                                        ],
                                        expect: Some(
                                            [
                                                109,
                                                97,
                                                112,
                                            ],
                                        ),
                                    },
                                ),
                                port: None,
                                interval: 1s,
                                timeout: 500ms,
                                rise: 2,
                                fall: 2,
                                backoff_max: None,
                                degraded: None,
                                path: None,
                            },
                        ],
                        breaker: None,
                        passive: None,
                        flapping: Rules {
                            changes: 6,
                            window: 300s,
                            hold: None,
                            hold_max: 600s,
                        },
                        ejected_max_percent: 50,
                    },
                    server_ids: None,
                    backends: [
                        Backend {
                            endpoint: 10.0.1.3:27015,
                            weight: 1,
                            tier: Priority(
                                0,
                            ),
                            zone: None,
                        },
                    ],
                    dns: None,
                    file: None,
                    docker: None,
                    ranks: {},
                },
                Service {
                    name: "web-quic",
                    vip: 192.0.2.1,
                    port: 443,
                    protocol: Udp,
                    algorithm: Maglev,
                    hashing: Hashing {
                        client_prefix: None,
                        max_load: None,
                    },
                    forward: Dsr,
                    gue_port: 6080,
                    mss: None,
                    toa: false,
                    idle: 120s,
                    on_down: Remap,
                    is_tracked: false,
                    failover: Rules {
                        failback: Auto,
                        minimum: None,
                        panic_percent: 0,
                        slow_start: None,
                    },
                    zones: None,
                    health: Checks {
                        mode: All,
                        list: [
                            Check {
                                probe: None,
                                port: None,
                                interval: 1s,
                                timeout: 500ms,
                                rise: 2,
                                fall: 2,
                                backoff_max: None,
                                degraded: None,
                                path: None,
                            },
                        ],
                        breaker: None,
                        passive: None,
                        flapping: Rules {
                            changes: 6,
                            window: 300s,
                            hold: None,
                            hold_max: 600s,
                        },
                        ejected_max_percent: 50,
                    },
                    server_ids: Some(
                        ServerIds {
                            len: 2,
                            configs: 1,
                            are_addresses: false,
                            listed: {
                                10.0.1.1:443: 0a01,
                                10.0.1.2:443: 0a02,
                            },
                        },
                    ),
                    backends: [
                        Backend {
                            endpoint: 10.0.1.1:443,
                            weight: 1,
                            tier: Priority(
                                0,
                            ),
                            zone: None,
                        },
                        Backend {
                            endpoint: 10.0.1.2:443,
                            weight: 1,
                            tier: Priority(
                                0,
                            ),
                            zone: None,
                        },
                    ],
                    dns: None,
                    file: None,
                    docker: None,
                    ranks: {},
                },
                Service {
                    name: "web-tls",
                    vip: 192.0.2.1,
                    port: 443,
                    protocol: Tcp,
                    algorithm: Maglev,
                    hashing: Hashing {
                        client_prefix: None,
                        max_load: None,
                    },
                    forward: Dsr,
                    gue_port: 6080,
                    mss: None,
                    toa: false,
                    idle: 900s,
                    on_down: Remap,
                    is_tracked: false,
                    failover: Rules {
                        failback: Auto,
                        minimum: None,
                        panic_percent: 0,
                        slow_start: None,
                    },
                    zones: None,
                    health: Checks {
                        mode: All,
                        list: [
                            Check {
                                probe: Http(
                                    Http {
                                        method: GET,
                                        path: "/",
                                        host: None,
                                        expect: 200..=399,
                                        body: None,
                                        tls: Some(
                                            Tls {
                                                name: Some(
                                                    DnsName(
                                                        "www.example.org",
                                                    ),
                                                ),
                                                trust: File(
                                                    "/etc/xlb/ca.pem",
                                                ),
                                            },
                                        ),
                                    },
                                ),
                                port: None,
                                interval: 1s,
                                timeout: 500ms,
                                rise: 2,
                                fall: 2,
                                backoff_max: None,
                                degraded: None,
                                path: None,
                            },
                        ],
                        breaker: None,
                        passive: None,
                        flapping: Rules {
                            changes: 6,
                            window: 300s,
                            hold: None,
                            hold_max: 600s,
                        },
                        ejected_max_percent: 50,
                    },
                    server_ids: None,
                    backends: [
                        Backend {
                            endpoint: 10.0.1.1:443,
                            weight: 1,
                            tier: Priority(
                                0,
                            ),
                            zone: None,
                        },
                    ],
                    dns: None,
                    file: None,
                    docker: None,
                    ranks: {},
                },
                Service {
                    name: "database",
                    vip: 192.0.2.3,
                    port: 5432,
                    protocol: Tcp,
                    algorithm: Maglev,
                    hashing: Hashing {
                        client_prefix: None,
                        max_load: None,
                    },
                    forward: Dsr,
                    gue_port: 6080,
                    mss: None,
                    toa: false,
                    idle: 900s,
                    on_down: Remap,
                    is_tracked: false,
                    failover: Rules {
                        failback: Auto,
                        minimum: None,
                        panic_percent: 0,
                        slow_start: None,
                    },
                    zones: None,
                    health: Checks {
                        mode: All,
                        list: [
                            Check {
                                probe: Postgres(
                                    Postgres {
                                        login: Some(
                                            Login {
                                                user: "xlb",
                                                password_file: Some(
                                                    "/etc/xlb/database-password",
                                                ),
                                                database: Some(
                                                    "postgres",
                                                ),
                                                role: Some(
                                                    Primary,
                                                ),
                                            },
                                        ),
                                    },
                                ),
                                port: None,
                                interval: 1s,
                                timeout: 500ms,
                                rise: 2,
                                fall: 2,
                                backoff_max: None,
                                degraded: None,
                                path: None,
                            },
                        ],
                        breaker: None,
                        passive: None,
                        flapping: Rules {
                            changes: 6,
                            window: 300s,
                            hold: None,
                            hold_max: 600s,
                        },
                        ejected_max_percent: 50,
                    },
                    server_ids: None,
                    backends: [
                        Backend {
                            endpoint: 10.0.1.4:5432,
                            weight: 1,
                            tier: Priority(
                                0,
                            ),
                            zone: None,
                        },
                        Backend {
                            endpoint: 10.0.1.5:5432,
                            weight: 1,
                            tier: Priority(
                                0,
                            ),
                            zone: None,
                        },
                    ],
                    dns: None,
                    file: None,
                    docker: None,
                    ranks: {},
                },
                Service {
                    name: "users",
                    vip: 192.0.2.4,
                    port: 50051,
                    protocol: Tcp,
                    algorithm: Maglev,
                    hashing: Hashing {
                        client_prefix: None,
                        max_load: None,
                    },
                    forward: Dsr,
                    gue_port: 6080,
                    mss: None,
                    toa: false,
                    idle: 900s,
                    on_down: Remap,
                    is_tracked: false,
                    failover: Rules {
                        failback: Auto,
                        minimum: None,
                        panic_percent: 0,
                        slow_start: None,
                    },
                    zones: None,
                    health: Checks {
                        mode: All,
                        list: [
                            Check {
                                probe: Grpc(
                                    Grpc {
                                        service: "example.Users",
                                        host: None,
                                    },
                                ),
                                port: None,
                                interval: 1s,
                                timeout: 500ms,
                                rise: 2,
                                fall: 2,
                                backoff_max: None,
                                degraded: None,
                                path: None,
                            },
                        ],
                        breaker: None,
                        passive: None,
                        flapping: Rules {
                            changes: 6,
                            window: 300s,
                            hold: None,
                            hold_max: 600s,
                        },
                        ejected_max_percent: 50,
                    },
                    server_ids: None,
                    backends: [
                        Backend {
                            endpoint: 10.0.1.6:50051,
                            weight: 1,
                            tier: Priority(
                                0,
                            ),
                            zone: None,
                        },
                    ],
                    dns: None,
                    file: None,
                    docker: None,
                    ranks: {},
                },
                Service {
                    name: "files",
                    vip: 192.0.2.5,
                    port: 445,
                    protocol: Tcp,
                    algorithm: Maglev,
                    hashing: Hashing {
                        client_prefix: None,
                        max_load: None,
                    },
                    forward: Dsr,
                    gue_port: 6080,
                    mss: None,
                    toa: false,
                    idle: 900s,
                    on_down: Remap,
                    is_tracked: false,
                    failover: Rules {
                        failback: Auto,
                        minimum: None,
                        panic_percent: 0,
                        slow_start: None,
                    },
                    zones: None,
                    health: Checks {
                        mode: All,
                        list: [
                            Check {
                                probe: Script(
                                    Script {
                                        program: "/usr/local/lib/xlb/check-share",
                                        arguments: [
                                            "public",
                                        ],
                                    },
                                ),
                                port: None,
                                interval: 10s,
                                timeout: 5s,
                                rise: 2,
                                fall: 2,
                                backoff_max: None,
                                degraded: None,
                                path: None,
                            },
                            Check {
                                probe: Agent,
                                port: Some(
                                    9777,
                                ),
                                interval: 1s,
                                timeout: 500ms,
                                rise: 2,
                                fall: 2,
                                backoff_max: None,
                                degraded: None,
                                path: None,
                            },
                        ],
                        breaker: None,
                        passive: None,
                        flapping: Rules {
                            changes: 6,
                            window: 300s,
                            hold: None,
                            hold_max: 600s,
                        },
                        ejected_max_percent: 50,
                    },
                    server_ids: None,
                    backends: [
                        Backend {
                            endpoint: 10.0.1.7:445,
                            weight: 1,
                            tier: Priority(
                                0,
                            ),
                            zone: None,
                        },
                    ],
                    dns: None,
                    file: None,
                    docker: None,
                    ranks: {},
                },
                Service {
                    name: "elsewhere",
                    vip: 192.0.2.3,
                    port: 80,
                    protocol: Tcp,
                    algorithm: Maglev,
                    hashing: Hashing {
                        client_prefix: None,
                        max_load: None,
                    },
                    forward: Gue,
                    gue_port: 6080,
                    mss: Some(
                        1360,
                    ),
                    toa: false,
                    idle: 900s,
                    on_down: Remap,
                    is_tracked: false,
                    failover: Rules {
                        failback: Auto,
                        minimum: None,
                        panic_percent: 0,
                        slow_start: None,
                    },
                    zones: None,
                    health: Checks {
                        mode: All,
                        list: [
                            Check {
                                probe: Tcp,
                                port: None,
                                interval: 1s,
                                timeout: 500ms,
                                rise: 2,
                                fall: 2,
                                backoff_max: None,
                                degraded: None,
                                path: None,
                            },
                        ],
                        breaker: None,
                        passive: None,
                        flapping: Rules {
                            changes: 6,
                            window: 300s,
                            hold: None,
                            hold_max: 600s,
                        },
                        ejected_max_percent: 50,
                    },
                    server_ids: None,
                    backends: [
                        Backend {
                            endpoint: [2001:db8::3]:80,
                            weight: 1,
                            tier: Priority(
                                0,
                            ),
                            zone: None,
                        },
                    ],
                    dns: None,
                    file: None,
                    docker: None,
                    ranks: {},
                },
            ],
        }
    "#]]
    .assert_debug_eq(&accepted(FULL));
}

/// What follows `label` in each error about `text`.
fn told(text: &str, label: &str) -> Vec<String> {
    let error = parse("xlb.toml", text).unwrap_err().to_string();
    error.lines().filter_map(|line| line.split_once(label)).map(|(_, told)| told.to_owned()).collect()
}

#[test]
fn the_full_file_has_every_key_that_is_known() {
    // Each list of known keys, as an unknown key brings it out.
    let every_section = "z = 1\n[xdp]\nz = 1\n[api]\nz = 1\n[node]\nz = 1\n[steering]\nz = 1\n[limits]\nz = 1\n[[service]]\nz = 1\n[[service.backend]]\nz = 1\n[service.dns]\nz = 1\n[service.file]\nz = 1\n[service.docker]\nz = 1\n[service.zones]\nz = 1\n[service.quic]\nz = 1\n";
    let mut known = told(every_section, "known here are ");
    assert_eq!(known.len(), 13);
    // A check's keys depend on its type.
    let types = told("[[service]]\nhealth.type = 0\n", "expected one of ").remove(0);
    for word in types.trim_end_matches(", found the number 0").split(", ") {
        let check = format!("[[service]]\nhealth = {{ type = \"{word}\", z = 1 }}\n");
        known.push(told(&check, "known here are ").remove(0));
        assert!(FULL.lines().any(|line| line.starts_with(&format!("#   {word} "))), "full.toml lacks the type {word}");
    }
    for key in known.iter().flat_map(|keys| keys.split(", ")) {
        let shown = FULL.lines().any(|line| {
            // What excludes another key is commented out.
            line.trim_start_matches("# ").starts_with(&format!("{key} ="))
                || line.starts_with(&format!("[{key}]"))
                || line.contains(&format!("{key}]]"))
                || line.contains(&format!(".{key}]"))
        });
        assert!(shown, "full.toml lacks `{key}`");
    }
}

#[test]
fn a_file_without_services_is_a_beginning() {
    assert_eq!(accepted("xdp.interfaces = [\"eth0\"]").services, []);
}

#[test]
fn a_nat_backend_serves_on_its_own_port_or_the_services() {
    let nat =
        service("port = 80\nforward = \"nat\"\nbackend = [{ address = \"10.0.1.1\" }, { address = \"10.0.1.1\", port = 8080 }]");
    let endpoints: Vec<_> = nat.backends.iter().map(|backend| backend.endpoint.to_string()).collect();
    assert_eq!(endpoints, ["10.0.1.1:80", "10.0.1.1:8080"]);
}

#[test]
fn a_service_of_every_port_leaves_the_port_open() {
    let every = service("port = 0\nhealth.port = 22\ndns.name = \"a.b\"\nbackend = [{ address = \"10.0.1.1\", weight = 0 }]");
    assert_eq!((every.port, every.backends[0].endpoint.port(), every.dns.unwrap().port), (0, 0, 0));
    assert_eq!((&every.health.list[0].probe, every.health.list[0].port), (&Probe::Tcp, Some(22)));
}

#[test]
fn nat_services_may_share_a_host_on_other_ports_or_protocols() {
    let second = "[[service]]\nname = \"b\"\nvip = \"192.0.2.2\"\nport = 80\nforward = \"nat\"\n";
    for (protocol, backend) in [("udp", "{ address = \"10.0.1.1\" }"), ("tcp", "{ address = \"10.0.1.1\", port = 81 }")] {
        let lines = format!(
            "port = 80\nforward = \"nat\"\nbackend = [{{ address = \"10.0.1.1\" }}]\n\
             {second}protocol = \"{protocol}\"\nbackend = [{backend}]"
        );
        service(&lines);
    }
}

#[test]
fn the_default_check_is_tcp_for_tcp_and_none_for_udp() {
    for (protocol, health, expected) in [
        ("tcp", "", Probe::Tcp),
        ("udp", "", Probe::None),
        ("udp", "health.rise = 3", Probe::None),
        ("tcp", "health.rise = 3", Probe::Tcp),
    ] {
        let lines = format!("port = 80\nprotocol = \"{protocol}\"\n{health}\nbackend = [{{ address = \"10.0.1.1\" }}]");
        assert_eq!(service(&lines).health.list[0].probe, expected, "{protocol} {health}");
    }
}

#[test]
fn a_short_interval_shortens_the_default_timeout() {
    let check = service("port = 80\nhealth.interval = \"50ms\"\nbackend = [{ address = \"10.0.1.1\" }]").health;
    assert_eq!(check.list[0].timeout, Duration::from_millis(50));
}

#[test]
fn a_check_may_be_switched_off_with_all_its_keys_in_place() {
    let check = service(
        "port = 80\nhealth = { type = \"none\", path = \"/health\", interval = \"2s\" }\nbackend = [{ address = \"10.0.1.1\" }]",
    );
    assert_eq!(check.health.list[0].probe, Probe::None);
}

#[test]
fn a_resolver_without_a_port_is_asked_on_53() {
    for (written, meant) in [
        ("10.0.0.53", "10.0.0.53:53"),
        ("10.0.0.53:54", "10.0.0.53:54"),
        ("fd00::53", "[fd00::53]:53"),
        ("[fd00::53]:54", "[fd00::53]:54"),
    ] {
        let dns = service(&format!("port = 80\ndns = {{ name = \"a.b.\", resolver = \"{written}\" }}")).dns.unwrap();
        assert_eq!(dns.resolver.unwrap().to_string(), meant);
    }
}

#[test]
fn more_services_than_the_kernel_side_holds_are_refused() {
    let mut text = String::from("[xdp]\ninterfaces = [\"eth0\"]\n");
    for n in 0..=limits::SERVICES {
        let _ = write!(text, "[[service]]\nname = \"s{n}\"\nvip = \"192.0.2.1\"\nport = {}\ndns.name = \"a.b\"\n", n + 1);
    }
    expect![[r#"
        error: 4097 services, but xlb holds at most 4096
             --> xlb.toml:20484:8
              |
        20484 | name = "s4096"
              |        ^^^^^^^ the first beyond
              |
              = help: spread them over several daemons

        error: xlb.toml: 1 problem"#]]
    .assert_eq(&parse("xlb.toml", &text).unwrap_err().to_string());
}

#[test]
fn more_backends_than_the_kernel_side_holds_are_refused() {
    let mut text = String::from("[xdp]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"s\"\nvip = \"192.0.2.1\"\nport = 80\n");
    for n in 0..=limits::BACKENDS {
        let _ = write!(text, "[[service.backend]]\naddress = \"10.{}.{}.{}\"\n", 1 + (n >> 16), (n >> 8) & 255, n & 255);
    }
    expect![[r#"
        error: 65536 backends, but xlb holds at most 65535
              --> xlb.toml:131078:11
               |
        131078 | address = "10.1.255.255"
               |           ^^^^^^^^^^^^^^ the first beyond
               |
               = help: spread them over several daemons

        error: xlb.toml: 1 problem"#]]
    .assert_eq(&parse("xlb.toml", &text).unwrap_err().to_string());
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        let _ = parse("xlb.toml", &text).map_err(|error| error.to_string());
    }

    #[test]
    fn no_mutation_of_a_good_file_makes_the_parser_panic(
        at in 0..FULL.len(), removed in 0usize..40, inserted in "[-a-z0-9\"=\\[\\]{}.,\n\r\t #é\u{0}]{0,8}",
    ) {
        let start = FULL.floor_char_boundary(at);
        let end = FULL.floor_char_boundary((at + removed).min(FULL.len())).max(start);
        let text = format!("{}{inserted}{}", &FULL[..start], &FULL[end..]);
        let _ = parse("xlb.toml", &text).map_err(|error| error.to_string());
    }

    #[test]
    fn no_value_makes_the_parser_panic(
        line in (0..FULL.lines().count()), value in "[-0-9a-z\"']{1,4}|\"[0-9a-f:./-]{0,12}\"|-?[0-9]{1,30}|\"[0-9]{1,25}(ns|ms|s|y|years)\"|\\[\\]|\\{\\}|1979-05-27|inf",
    ) {
        let replaced = FULL.lines().enumerate().map(|(n, text)| match text.split_once(" = ") {
            Some((key, _)) if n == line => format!("{key} = {value}"),
            _ => text.to_owned(),
        });
        let text = replaced.collect::<Vec<_>>().join("\n");
        let _ = parse("xlb.toml", &text).map_err(|error| error.to_string());
    }
}

#[test]
fn daemons_with_pin_directories_of_their_own_have_files_of_their_own() {
    let names = ["/sys/fs/bpf/xlb", "/sys/fs/bpf/a/b", "/sys/fs/bpf/a-b", "/mnt/bpf/xlb", "/sys/fs/bpf"].map(|pin| {
        let api = Api::of(Path::new(pin));
        (api.socket.display().to_string(), api.state_file.display().to_string())
    });
    assert_eq!(names[0], ("/run/xlb/xlb.sock".into(), "/var/lib/xlb/xlb.json".into()));
    assert_eq!(names[1].0, "/run/xlb/a-b.sock");
    assert_eq!(names[2].0, "/run/xlb/a\\x2db.sock");
    assert_eq!(names[3].0, "/run/xlb/-mnt-bpf-xlb.sock");
    assert_eq!(names[4].0, "/run/xlb/-sys-fs-bpf.sock");
}

#[test]
fn who_may_change_what_and_where_that_is_kept_can_be_set() {
    let text = "[xdp]\ninterfaces = [\"eth0\"]\n[api]\nsocket = \"/run/x.sock\"\nsocket_gid = 27\ntoken_file = \"/etc/t\"\n\
                state_file = \"/var/s\"\naudit_file = \"/var/a\"\n";
    let api = parse("test.toml", text).unwrap().api;
    assert_eq!((api.socket.to_str(), api.socket_gid), (Some("/run/x.sock"), Some(27)));
    assert_eq!((api.token_file, api.audit_file), (Some("/etc/t".into()), Some("/var/a".into())));
    assert_eq!(api.state_file.to_str(), Some("/var/s"));
    let long = text.replace("/run/x", &format!("/run/{}", "x".repeat(110)));
    assert!(parse("test.toml", &long).unwrap_err().to_string().contains("at most 103"));
}
