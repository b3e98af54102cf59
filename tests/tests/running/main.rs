//! What an operator runs xlb with: metrics, alert rules, the dashboard, the systemd unit, examples.

mod booted;
mod dashboard;
mod documented;
mod examples;
mod exported;
mod logs;
mod metrics;
mod queries;
mod rules;
mod supervised;
mod support;
mod unit;
