//! The HTTP and HTTPS checks, with nginx.

use anyhow::Result;
use xlb_tests::{Authority, Nginx};

use super::support::{fails, host, passes};

#[test]
#[ignore = "needs root: makes network namespaces"]
fn nginx_is_judged_by_status_and_body() -> Result<()> {
    let (_world, netns) = host()?;
    let _nginx = Nginx::start(&netns, "backend", &["127.0.0.1:80".parse()?, "[::1]:80".parse()?])?;
    for target in ["127.0.0.1:80", "[::1]:80"] {
        passes(&netns, "type = \"http\"\npath = \"/health\"\nbody = \"ok\"", target, "http 200")?;
        passes(&netns, "type = \"http\"\nmethod = \"HEAD\"", target, "http 200")?;
        let without = "http 200, without \"ready\" in the first 64 KiB of the body";
        fails(&netns, "type = \"http\"\nbody = \"ready\"", target, without)?;
        fails(&netns, "type = \"http\"\nexpect = 204", target, "http 200")?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_certificate_is_verified_unless_the_operator_will_not() -> Result<()> {
    const TARGET: &str = "127.0.0.1:443";
    let (_world, netns) = host()?;
    let authority = Authority::new()?;
    let stranger = Authority::new()?;
    let certificate = authority.sign("server", "DNS:www.example.org, IP:127.0.0.1")?;
    let _nginx = Nginx::start_tls(&netns, "backend", &[TARGET.parse()?, "[::1]:443".parse()?], &certificate)?;
    let https = |lines: &str| format!("type = \"https\"\npath = \"/health\"\nbody = \"ok\"\n{lines}");
    let (trusted, untrusted) = (authority.file(), stranger.file());
    let by = |authority: &std::path::Path, lines: &str| https(&format!("ca_file = \"{}\"\n{lines}", authority.display()));

    passes(&netns, &by(&trusted, ""), TARGET, "https 200")?;
    passes(&netns, &by(&trusted, "host = \"www.example.org\""), TARGET, "https 200")?;
    passes(&netns, &by(&trusted, "host = \"www.example.net\"\nsni = \"www.example.org\""), TARGET, "https 200")?;
    passes(&netns, &https("verify = false"), TARGET, "https 200")?;
    passes(&netns, &https("verify = false\nhost = \"www.example.net\""), "[::1]:443", "https 200")?;

    let unknown = "tls: invalid peer certificate: UnknownIssuer";
    fails(&netns, &https(""), TARGET, unknown)?;
    fails(&netns, &by(&untrusted, ""), TARGET, unknown)?;
    let not_for = |name: &str| {
        format!(
            "tls: invalid peer certificate: certificate not valid for name \"{name}\"; certificate is only valid for \
             DnsName(\"www.example.org\") or IpAddress(127.0.0.1)"
        )
    };
    fails(&netns, &by(&trusted, "sni = \"www.example.net\""), TARGET, &not_for("www.example.net"))?;
    fails(&netns, &by(&trusted, ""), "[::1]:443", &not_for("::1"))
}
