//! The page and its API.

use crate::{
    Stop, catalogue,
    http_server::{self, Answer, answer, text},
    rpc::{self, Empty},
};
use clap::Args;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;
use std::sync::Arc;
use tonic::{Status, transport::Channel};

const PAGE: &str = include_str!("../page/index.html");

/// Settings of the role.
#[derive(Args)]
pub(crate) struct Config {
    /// Port of the page.
    #[arg(long, env = "WEB_PORT", default_value_t = 8080)]
    web_port: u16,
    /// `host:port` of the emoji service.
    #[arg(long, env = "EMOJISVC_HOST")]
    emojisvc_host: String,
    /// `host:port` of the voting service.
    #[arg(long, env = "VOTINGSVC_HOST")]
    votingsvc_host: String,
    /// A line shown on the page.
    #[arg(long, env = "MESSAGE_OF_THE_DAY", default_value = "")]
    message_of_the_day: String,
}

pub(crate) async fn run(config: Config, stop: Stop) -> anyhow::Result<()> {
    let web = Arc::new(Web {
        emoji: rpc::channel(&config.emojisvc_host)?,
        voting: rpc::channel(&config.votingsvc_host)?,
        page: PAGE.replace("{{message}}", &escape(&config.message_of_the_day)),
    });
    let handler = move |request: Request<Incoming>| {
        let web = Arc::clone(&web);
        async move { web.handle(&request).await }
    };
    http_server::serve(config.web_port, stop, handler).await
}

/// Makes a text harmless inside HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

struct Web {
    emoji: Channel,
    voting: Channel,
    page: String,
}

#[derive(Serialize)]
struct Listed {
    shortcode: String,
    unicode: String,
}

#[derive(Serialize)]
struct Placed {
    votes: String,
    unicode: String,
    shortcode: String,
}

const EMOJI: &str = "emojivoto.v1.EmojiService";
const VOTING: &str = "emojivoto.v1.VotingService";

impl Web {
    async fn handle(&self, request: &Request<Incoming>) -> Answer {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
        }
        let result = match request.uri().path() {
            "/" | "/leaderboard" => {
                let page = self.page.clone();
                return answer(StatusCode::OK, "text/html; charset=utf-8", page);
            }
            "/api/list" => self.list().await,
            "/api/vote" => self.vote(request.uri().query().unwrap_or("")).await,
            "/api/leaderboard" => self.leaderboard().await,
            _ => return text(StatusCode::NOT_FOUND, "no such page\n"),
        };
        result.unwrap_or_else(|status| {
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", status.message()))
        })
    }

    async fn list(&self) -> Result<Answer, Status> {
        let all: rpc::EmojiList = rpc::call(&self.emoji, EMOJI, "ListAll", Empty {}).await?;
        let list = all.list.into_iter();
        let list = list.map(|e| Listed { shortcode: e.shortcode, unicode: e.unicode });
        Ok(json(&list.collect::<Vec<_>>()))
    }

    async fn vote(&self, query: &str) -> Result<Answer, Status> {
        let choice = query.split('&').find_map(|pair| pair.strip_prefix("choice="));
        let choice = choice.map(|choice| choice.replace("%3A", ":").replace("%3a", ":"));
        let Some(choice) = choice.filter(|choice| !choice.is_empty()) else {
            return Ok(text(StatusCode::BAD_REQUEST, "which emoji? ask for ?choice=:name:\n"));
        };
        let question = rpc::Shortcode { shortcode: choice.clone() };
        let found: rpc::Found = rpc::call(&self.emoji, EMOJI, "FindByShortcode", question).await?;
        if found.emoji.is_none() {
            return Ok(text(StatusCode::BAD_REQUEST, "there is no such emoji\n"));
        }
        let procedure = catalogue::procedure(&choice);
        let _: Empty = rpc::call(&self.voting, VOTING, &procedure, Empty {}).await?;
        Ok(text(StatusCode::OK, ""))
    }

    async fn leaderboard(&self) -> Result<Answer, Status> {
        let results: rpc::Results = rpc::call(&self.voting, VOTING, "Results", Empty {}).await?;
        let mut board = Vec::with_capacity(results.results.len());
        // One call for each place, as the original does: it makes the traffic worth watching.
        for result in results.results {
            let question = rpc::Shortcode { shortcode: result.shortcode.clone() };
            let found: rpc::Found =
                rpc::call(&self.emoji, EMOJI, "FindByShortcode", question).await?;
            board.push(Placed {
                votes: result.votes.to_string(),
                unicode: found.emoji.map(|emoji| emoji.unicode).unwrap_or_default(),
                shortcode: result.shortcode,
            });
        }
        Ok(json(&board))
    }
}

fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => answer(StatusCode::OK, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
