//! What the library's requests go out by.

use std::net::ToSocketAddrs;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::limits::ACME_RESPONSE_BYTES_MAX;
use crate::web::{self, Method, Request};

/// Does requests on the thread that asks for them: its futures never wait.
pub struct Client {
    /// Who vouches for the server.
    pub tls: Arc<ClientConfig>,
}

type Answer = Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>>;

impl HttpClient for Client {
    fn request(&self, request: http::Request<BodyWrapper<Bytes>>) -> Answer {
        let tls = self.tls.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let Ok(body) = body.collect().await;
            let body = body.to_bytes().to_vec();
            let request = translate(&parts, body, tls).map_err(Error::Other)?;
            let response = web::ask_blocking(&request).map_err(|it| Error::Other(it.into()))?;
            let mut answer = http::Response::builder().status(response.status);
            for (name, value) in &response.fields {
                answer = answer.header(name, value);
            }
            let (parts, ()) = answer.body(())?.into_parts();
            Ok(BytesResponse { parts, body: Box::new(Bytes::from(response.body)) })
        })
    }
}

fn translate(
    parts: &http::request::Parts,
    body: Vec<u8>,
    tls: Arc<ClientConfig>,
) -> Result<Request, Box<dyn std::error::Error + Send + Sync>> {
    let url = &parts.uri;
    let host = url.host().filter(|_| url.scheme_str() == Some("https"));
    let host = host.ok_or_else(|| format!("{url}: not an https URL"))?;
    let method = match parts.method {
        http::Method::HEAD => Method::Head,
        http::Method::POST => Method::Post { content_type: "application/jose+json", body },
        _ => Method::Get,
    };
    let addresses = (host, url.port_u16().unwrap_or(443)).to_socket_addrs();
    let addresses = addresses.map_err(|error| format!("{host}: {error}"))?;
    Ok(Request {
        method,
        host: ServerName::try_from(host.to_owned())?,
        addresses: addresses.collect(),
        path: url.path_and_query().map_or("/", |it| it.as_str()).to_owned(),
        tls,
        body_bytes_max: ACME_RESPONSE_BYTES_MAX,
        time_max: REQUEST_TIME_MAX,
    })
}

const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);
