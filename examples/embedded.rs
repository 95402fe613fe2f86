//! The store by itself, in a program of one's own: `cargo run --example embedded`.

use std::time::{SystemTime, UNIX_EPOCH};

use nomad::{Store, StoreOptions, UnixSecs};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(StoreOptions::new(dir.path()))?;

    // Each answer comes after the fsync that covers its write.
    let version = store.put("item:1", "a sword", None).await?;
    println!("item:1 is at version {version}");
    if let Err(refused) = store.put("item:1", "a shield", None).await {
        println!("put again: {refused}");
    }

    store.update("item:1", "a better sword", None).await?;
    let object = store.get("item:1")?.ok_or("just written")?;
    println!("{} = {:?}, created at {}", object.id, object.value, object.creation_time);

    // A ttl is the Unix time in seconds from which on the object is absent.
    #[expect(clippy::disallowed_methods, reason = "an example has no clock to drive")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    store.put("item:2", "a snowflake", Some(UnixSecs(now + 3600))).await?;
    for meta in store.list("item:", None, 100)?.items {
        println!("{} has {} bytes and expires at {:?}", meta.id, meta.size_bytes, meta.expires_at);
    }

    store.delete("item:1").await?;
    println!("after the delete: {:?}", store.get("item:1")?);
    store.close().await;
    Ok(())
}
