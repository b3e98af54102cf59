//! Certificates for servers under test, made by openssl.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// What an authority's certificate says, and a server's.
const EXTENSIONS: &str = "[req]\ndistinguished_name = name\n[name]\n\
                          [authority]\nbasicConstraints = critical, CA:TRUE\n\
                          [server]\nbasicConstraints = critical, CA:FALSE\nsubjectAltName = ${ENV::NAMES}\n";

/// Signs certificates that nobody else trusts. Its files, and those of what it signed, vanish with it.
#[derive(Debug)]
pub struct Authority {
    directory: tempfile::TempDir,
}

/// A server's certificate, in PEM.
#[derive(Debug)]
pub struct Certificate {
    pub chain: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// # Errors
    /// openssl is not installed, or fails.
    pub fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        std::fs::write(directory.path().join("extensions"), EXTENSIONS)?;
        let authority = Self { directory };
        authority.request("authority", "authority", "", &[])?;
        Ok(authority)
    }

    /// Its own certificate, for those who are to trust it.
    pub fn file(&self) -> PathBuf {
        self.directory.path().join("authority.pem")
    }

    /// A certificate for `names`, as openssl writes them: `DNS:www.example.org, IP:127.0.0.1`.
    ///
    /// # Errors
    /// openssl fails.
    pub fn sign(&self, file: &str, names: &str) -> Result<Certificate> {
        self.request(file, "server", names, &["-CA", "authority.pem", "-CAkey", "authority.key"])?;
        let path = |ending: &str| self.directory.path().join(format!("{file}.{ending}"));
        Ok(Certificate { chain: path("pem"), key: path("key") })
    }

    fn request(&self, file: &str, extensions: &str, names: &str, signer: &[&str]) -> Result<()> {
        // Two authorities of one name would be taken for each other, up to the signature.
        let subject = format!("/CN={file} {}", self.directory.path().display().to_string().replace('/', " "));
        let output = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args(["-config", "extensions", "-extensions", extensions, "-subj", &subject])
            .args(["-keyout", &format!("{file}.key"), "-out", &format!("{file}.pem")])
            .args(signer)
            .env("NAMES", names)
            .current_dir(self.directory.path())
            .output()
            .context("cannot start openssl")?;
        if !output.status.success() {
            bail!("openssl: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}
