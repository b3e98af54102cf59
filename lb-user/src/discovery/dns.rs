//! Watches one name: asks whenever an answer's time is over, or after a failure.

use std::convert::Infallible;
use std::time::Duration;

use super::answer::Answer;
use super::query::Question;
use super::teller::{Failure, Gone, Teller};
use crate::config::Dns;

#[cfg(test)]
mod tests;

/// Asks until nobody listens any more.
pub(super) async fn watch(dns: Dns, teller: Teller) {
    let question = Question::new(&dns, teller.place().family());
    let Err(Gone) = keep_asking(dns.interval, teller, || question.ask()).await;
}

async fn keep_asking<Q>(interval: Duration, mut teller: Teller, mut ask: impl FnMut() -> Q) -> Result<Infallible, Gone>
where
    Q: Future<Output = Result<Answer, Failure>>,
{
    loop {
        let answered = ask().await;
        let wait = answered.as_ref().ok().map(|answer| answer.wait(interval));
        teller.take(answered.map(|answer| answer.found)).await?;
        let wait = wait.filter(|_| !teller.is_failing()).unwrap_or_else(|| teller.wait_after_failure(interval));
        tokio::time::sleep(wait).await;
    }
}
