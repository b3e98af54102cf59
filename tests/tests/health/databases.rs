//! The checks of databases, with Redis and PostgreSQL: a primary, its replica, and what becomes of them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use lb_user::health::probe::Outcome;
use xlb_tests::{Netns, Postgres, Redis, postgres, until};

use super::support::{check, fails, host, passes};

const LIMIT: Duration = Duration::from_secs(20);

/// A file with a password, as an editor leaves it.
fn password_file(password: &str) -> Result<tempfile::NamedTempFile> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), format!("{password}\n"))?;
    Ok(file)
}

fn wait_until_passes(netns: &Netns, lines: &str, target: &str) -> Result<()> {
    until(LIMIT, &format!("{lines} to pass"), || match check(netns, lines, target)? {
        Outcome::Passed(_) => Ok(Some(())),
        other => anyhow::bail!("{other:?}"),
    })
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn redis_is_judged_by_its_answer_and_role() -> Result<()> {
    const PRIMARY: &str = "127.0.0.1:6379";
    const REPLICA: &str = "127.0.0.1:6380";
    let (_world, netns) = host()?;
    let mut primary = Redis::start(&netns, PRIMARY.parse()?, &[])?;
    let _replica = Redis::start(&netns, REPLICA.parse()?, &["--replicaof", "127.0.0.1 6379"])?;
    let role = |role: &str| format!("type = \"redis\"\nrole = \"{role}\"");
    passes(&netns, "type = \"redis\"", PRIMARY, "redis: pong")?;
    passes(&netns, &role("primary"), PRIMARY, "redis: primary")?;
    fails(&netns, &role("replica"), PRIMARY, "redis: primary, not replica")?;
    wait_until_passes(&netns, &role("replica"), REPLICA)?;
    fails(&netns, &role("primary"), REPLICA, "redis: replica, not primary")?;
    primary.kill();
    fails(&netns, "type = \"redis\"", PRIMARY, "connect: refused")
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn redis_is_logged_in_to() -> Result<()> {
    const TARGET: &str = "127.0.0.1:6379";
    let (_world, netns) = host()?;
    // What the check needs, and no more.
    let user = ["--user", "xlb", "on", ">tortoise", "+ping", "+role", "--requirepass", "hedgehog"];
    let _redis = Redis::start(&netns, TARGET.parse()?, &user)?;
    let (right, wrong, users) = (password_file("hedgehog")?, password_file("badger")?, password_file("tortoise")?);
    let by = |file: &Path, lines: &str| format!("type = \"redis\"\npassword_file = \"{}\"\n{lines}", file.display());
    passes(&netns, &by(right.path(), ""), TARGET, "redis: pong")?;
    passes(&netns, &by(users.path(), "user = \"xlb\"\nrole = \"primary\""), TARGET, "redis: primary")?;
    fails(&netns, "type = \"redis\"", TARGET, "redis: error \"NOAUTH Authentication required.\"")?;
    let wrong = check(&netns, &by(wrong.path(), ""), TARGET)?;
    ensure!(matches!(&wrong, Outcome::Failed(text) if text.starts_with("redis: error \"WRONGPASS")), "{wrong:?}");
    let gone = check(&netns, &by(Path::new("/no/such/file"), ""), TARGET)?;
    ensure!(matches!(&gone, Outcome::Unasked(text) if text.starts_with("redis: /no/such/file: ")), "{gone:?}");
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn postgresql_is_judged_by_login_and_role_through_a_failover() -> Result<()> {
    let (_world, netns) = host()?;
    let (at_primary, at_replica) = ("127.0.0.1:5432", "127.0.0.1:5433");
    let mut primary = Postgres::start(&netns, at_primary.parse()?)?;
    let (right, wrong) = (password_file(postgres::PASSWORD)?, password_file("badger")?);
    let by = |file: &Path, lines: &str| {
        format!("type = \"postgres\"\nuser = \"postgres\"\npassword_file = \"{}\"\n{lines}", file.display())
    };
    let role = |role: &str| by(right.path(), &format!("role = \"{role}\""));

    passes(&netns, "type = \"postgres\"", at_primary, "postgres: takes logins")?;
    passes(&netns, &by(right.path(), ""), at_primary, "postgres: logged in")?;
    passes(&netns, &by(right.path(), "database = \"template1\""), at_primary, "postgres: logged in")?;
    let refusal = "postgres: \"password authentication failed for user \\\"postgres\\\"\"";
    fails(&netns, &by(wrong.path(), ""), at_primary, refusal)?;
    let missing = "postgres: \"database \\\"gone\\\" does not exist\"";
    fails(&netns, &by(right.path(), "database = \"gone\""), at_primary, missing)?;
    passes(&netns, &role("primary"), at_primary, "postgres: primary")?;
    fails(&netns, &role("replica"), at_primary, "postgres: primary, not replica")?;

    let replica = primary.replica(&netns, at_replica.parse()?)?;
    passes(&netns, &role("replica"), at_replica, "postgres: replica")?;
    fails(&netns, &role("primary"), at_replica, "postgres: replica, not primary")?;
    primary.kill();
    fails(&netns, &role("primary"), at_primary, "connect: refused")?;
    replica.promote()?;
    passes(&netns, &role("primary"), at_replica, "postgres: primary")?;
    fails(&netns, &role("replica"), at_replica, "postgres: primary, not replica")?;
    passes(&netns, "type = \"postgres\"", at_replica, "postgres: takes logins")?;
    // Checks leave as PostgreSQL wants it, or it would log each of them.
    let log = primary.log() + &replica.log();
    ensure!(!log.contains("client"), "{log}");
    Ok(())
}
