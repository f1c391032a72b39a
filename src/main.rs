use std::sync::Arc;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let config = match args.iter().position(|a| a == "--config") {
        Some(i) => ringpost::config::Config::parse(&std::fs::read_to_string(&args[i+1]).unwrap(), &args[i+1]).unwrap(),
        None => ringpost::config::Config::embedded(),
    };
    let config = Arc::new(config);
    let (_writer, log) = ringpost::event::LogWriter::start(config.log.path.clone()).unwrap();
    let bound = ringpost::shard::bind(config.clone()).unwrap();
    let shards = bound.start(&log).unwrap();
    println!("ready");
    if let Some(listen) = config.metrics.listen {
        let senders = shards.senders();
        std::thread::spawn(move || {
            use std::io::{Read, Write};
            for s in std::net::TcpListener::bind(listen).unwrap().incoming() {
                let mut s = s.unwrap(); let mut b=[0;1024]; let _=s.read(&mut b);
                let snaps: Vec<_> = senders.iter().map(|x| { let (t,r)=std::sync::mpsc::channel(); let _ = ringpost::shard::ask_through(x, ringpost::shard::ask::Ask::Snapshot(t)); r.recv().unwrap()}).collect();
                let t = ringpost::metrics::render(&snaps);
                let _ = write!(s, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", t.len(), t);
            }
        });
    }
    shards.join().unwrap();
}
