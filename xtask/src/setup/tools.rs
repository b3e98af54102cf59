//! The programs that the tests and the demo run.

use std::path::Path;

use crate::command;

/// One program from the system's packages.
pub struct Tool {
    /// Debian's package.
    pub package: &'static str,
    /// The program that shows that it is there; or a file, by its whole path.
    pub binary: &'static str,
    pub what_for: &'static str,
}

impl Tool {
    pub fn is_here(&self) -> bool {
        if self.binary.starts_with('/') { Path::new(self.binary).exists() } else { command::find(self.binary).is_some() }
    }
}

pub const TOOLS: &[Tool] = &[
    Tool { package: "iproute2", binary: "ip", what_for: "network namespaces, links and routes" },
    Tool { package: "util-linux", binary: "nsenter", what_for: "starting programs in a network namespace" },
    Tool { package: "procps", binary: "sysctl", what_for: "forwarding and ARP settings of a namespace" },
    Tool { package: "ethtool", binary: "ethtool", what_for: "turning off partial checksums on veth" },
    Tool { package: "nginx-light", binary: "nginx", what_for: "real HTTP backends" },
    Tool { package: "dnsmasq-base", binary: "dnsmasq", what_for: "a real DNS server for discovery" },
    Tool { package: "docker.io", binary: "dockerd", what_for: "a real Docker daemon for discovery" },
    Tool { package: "docker-compose", binary: "docker-compose", what_for: "scaling its containers" },
    Tool { package: "redis-server", binary: "redis-server", what_for: "a database to check" },
    Tool { package: "postgresql", binary: "pg_createcluster", what_for: "a database to check, and its replica" },
    Tool { package: "openssl", binary: "openssl", what_for: "certificates for HTTPS backends" },
    Tool { package: "ca-certificates", binary: "update-ca-certificates", what_for: "authorities that a machine trusts" },
    Tool { package: "chromium", binary: "chromium", what_for: "looking at the status page as people do" },
    Tool { package: "faketime", binary: "faketime", what_for: "a wall clock that jumps for one process" },
    Tool { package: "wrk", binary: "wrk", what_for: "HTTP load" },
    Tool { package: "curl", binary: "curl", what_for: "single HTTP requests" },
    Tool { package: "iputils-ping", binary: "ping", what_for: "asking a VIP whether it is there" },
    Tool { package: "prometheus", binary: "promtool", what_for: "trying alert rules, and the dashboard's queries" },
    Tool { package: "systemd", binary: "systemd-analyze", what_for: "a look at the unit" },
    Tool { package: "tcpdump", binary: "tcpdump", what_for: "looking at packets when a test fails" },
];

/// What `cargo xtask deb` makes and tries a package with.
pub const PACKAGING_TOOLS: &[Tool] = &[
    Tool { package: "binutils", binary: "strip", what_for: "a binary without what nobody reads" },
    Tool { package: "lintian", binary: "lintian", what_for: "what Debian would say of the package" },
    Tool { package: "util-linux", binary: "unshare", what_for: "namespaces to install it in" },
    Tool { package: "systemd", binary: "systemd-analyze", what_for: "starting what was installed" },
];

/// What `cargo xtask bench --peers` measures beside xlb.
pub const PEERS: &[Tool] = &[
    Tool { package: "nftables", binary: "nft", what_for: "translation by netfilter" },
    Tool { package: "haproxy", binary: "haproxy", what_for: "a proxy" },
    Tool { package: "libnginx-mod-stream", binary: "/usr/lib/nginx/modules/ngx_stream_module.so", what_for: "another proxy" },
];

/// What `cargo xtask vm` boots other kernels with.
pub const MACHINE_TOOLS: &[Tool] = &[
    Tool { package: "qemu-system-x86", binary: "qemu-system-x86_64", what_for: "machines that run other kernels" },
    Tool { package: "busybox-static", binary: "busybox", what_for: "the first program of such a machine" },
    Tool { package: "kmod", binary: "modprobe", what_for: "which modules a driver needs" },
    Tool { package: "binutils", binary: "strip", what_for: "a test program without its debug information" },
    Tool { package: "xz-utils", binary: "xz", what_for: "modules as some kernels compress them" },
    Tool { package: "zstd", binary: "zstd", what_for: "modules as other kernels compress them" },
    Tool { package: "iproute2", binary: "ip", what_for: "links and routes" },
    Tool { package: "procps", binary: "sysctl", what_for: "forwarding settings" },
    Tool { package: "ethtool", binary: "ethtool", what_for: "turning off partial checksums on veth" },
];

/// What `cargo xtask bench --ipvs` sets up there.
pub const MACHINE_PEERS: &[Tool] = &[Tool { package: "ipvsadm", binary: "ipvsadm", what_for: "IPVS" }];
