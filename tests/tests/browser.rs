//! The page in a real browser. Without Chromium and its driver the tests are skipped, and a `main`
//! of their own says so.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tests::{
    Process,
    browser::{Browser, Driver},
    http,
};

fn main() {
    let driver = match Driver::start() {
        Ok(driver) => driver,
        Err(why) => {
            println!("\ntest of the page in a browser ... SKIPPED: {why}\n");
            return;
        }
    };
    println!("\nrunning the tests of the page in a browser");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        // One after the other: a browser takes two cores.
        run(
            &driver,
            "the form is sent and the page greets",
            the_form_is_sent_and_the_page_greets,
        )
        .await;
        run(
            &driver,
            "items appear as they come",
            items_appear_as_they_come,
        )
        .await;
        run(
            &driver,
            "input is never run as code",
            input_is_never_run_as_code,
        )
        .await;
        run(
            &driver,
            "a mistake is marked at its field",
            a_mistake_is_marked_at_its_field,
        )
        .await;
        run(
            &driver,
            "a failure is shown in its section",
            a_failure_is_shown_in_its_section,
        )
        .await;
        run(
            &driver,
            "the page fits all screens",
            the_page_fits_all_screens,
        )
        .await;
    });
    println!();
}

/// Runs one test in a window of its own, and then checks what every page promises.
async fn run(driver: &Driver, name: &str, test: impl AsyncFnOnce(&Browser) -> Process) {
    let browser = driver.open().await;
    let service2 = test(&browser).await;
    assert_nothing_is_wrong(&browser, &format!("http://{}/", service2.http())).await;
    browser.close().await;
    println!("test {name} ... ok");
}

/// Asserts that the console shows nothing but the statuses of pages, and that everything was fetched
/// from this origin.
async fn assert_nothing_is_wrong(browser: &Browser, origin: &str) {
    for entry in browser.log("browser").await {
        let message = entry["message"].as_str().expect("a text");
        assert!(
            message.contains("Failed to load resource: the server responded with a status of"),
            "the console says {message}"
        );
        assert!(
            message.starts_with(&format!("{origin}?"))
                || message.starts_with(&format!("{origin} "))
        );
    }
    let mut fetched = 0;
    for entry in browser.log("performance").await {
        let event: Value =
            serde_json::from_str(entry["message"].as_str().expect("a text")).expect("JSON");
        if event["message"]["method"] == "Network.requestWillBeSent" {
            let url = &event["message"]["params"]["request"]["url"];
            let url = url.as_str().expect("a text");
            assert!(
                url.starts_with(origin) || url.starts_with("data:"),
                "{url} is elsewhere"
            );
            fetched += 1;
        }
    }
    assert!(fetched > 1, "the page and its style sheet");
}

/// Loads the page and waits for its end.
async fn load(browser: &Browser, service2: &Process, query: &str) {
    browser
        .goto(&format!("http://{}/{query}", service2.http()))
        .await;
    browser.find("footer").await;
}

/// Replaces the text of a field.
async fn fill_in(browser: &Browser, field: &str, text: &str) {
    let field = browser.find(&format!("#{field}")).await;
    field.clear().await.expect("it is a field");
    field.send_keys(text).await.expect("it is a field");
}

/// Sends the form with the Enter key, and waits for the end of the next page.
async fn submit(browser: &Browser) {
    let before = browser.text("#request-id").await;
    let field = browser.find("#name").await;
    field.send_keys("\u{E007}").await.expect("it is a field");
    let changed = format!(
        "return document.querySelector('footer') && document.querySelector('#request-id').textContent != '{before}'"
    );
    browser.wait_until(&changed).await;
}

async fn the_form_is_sent_and_the_page_greets(browser: &Browser) -> Process {
    let (service1, service2) = Process::pair(&[]);
    load(browser, &service2, "").await;
    assert_eq!(browser.text("h1").await, "Hello Gonzalo!");
    assert_eq!(browser.count("#all li").await, 10);
    assert_eq!(browser.count("#streamed li").await, 5);

    fill_in(browser, "name", "Ada").await;
    fill_in(browser, "length", "3").await;
    fill_in(browser, "stream_length", "7").await;
    submit(browser).await;
    assert_eq!(browser.text("h1").await, "Hello Ada!");
    assert_eq!(browser.text("#all ol").await, "name 1\nname 2\nname 3");
    assert_eq!(browser.count("#streamed li").await, 7);
    assert_eq!(browser.text("#streamed li:nth-child(7)").await, "name 7");

    let id = browser.text("#request-id").await;
    assert_eq!(browser.text("#trace").await, format!("make trace ID={id}"));
    let hello = service1.line(&[("action", "say_hello"), ("request_id", &id)]);
    assert_eq!(hello.text("hello"), "Hello Ada!");
    for action in ["get_all", "get_stream"] {
        service1.line(&[
            ("action", action),
            ("request_id", &id),
            ("status", "success"),
        ]);
        service2.line(&[
            ("action", action),
            ("request_id", &id),
            ("status", "success"),
        ]);
    }
    let access = service2.access_line(&id);
    assert!(access.text("first_request_line").contains("name=Ada"));

    // The network panel of the browser draws the hops.
    let entries = "return performance.getEntriesByType('navigation')[0].serverTiming.map(entry => entry.name)";
    assert_eq!(
        browser.run(entries).await,
        json!(["sayHello", "getAll", "getStream", "total"])
    );
    // Each field has a label.
    let labels =
        "return [...document.querySelectorAll('input')].every(input => input.labels.length == 1)";
    assert_eq!(browser.run(labels).await, true);
    service2
}

async fn items_appear_as_they_come(browser: &Browser) -> Process {
    let fixture = Process::start("fixture", &[]);
    let service2 = Process::service2(&fixture, &[]);
    let url = format!("http://{}/?stream_length=5", service2.http());
    browser.goto(&url).await;
    // The fixture makes no more items before the release.
    browser.wait_for_count("#streamed li", 3).await;
    assert_eq!(browser.count("footer").await, 0, "the page has not ended");
    let shows = |content: &str| {
        let more = "getComputedStyle(document.querySelector('#streamed ol'), '::after').content";
        format!("return {more} == '{content}'")
    };
    browser.wait_until(&shows("\"waiting for more …\"")).await;
    assert_eq!(http::get(fixture.http(), "/release").status, 200);
    browser.wait_for_count("#streamed li", 5).await;
    browser.find("footer").await;
    browser.wait_until(&shows("none")).await;
    service2
}

async fn input_is_never_run_as_code(browser: &Browser) -> Process {
    let (_service1, service2) = Process::pair(&[]);
    load(browser, &service2, "").await;
    for name in [
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "' onfocus='alert(1)' autofocus='",
        "שלום",
    ] {
        fill_in(browser, "name", name).await;
        submit(browser).await;
        assert!(!browser.has_dialog().await, "{name}");
        assert_eq!(browser.text("h1").await, format!("Hello {name}!"));
        let value = "return document.querySelector('#name').value";
        assert_eq!(browser.run(value).await, name);
        assert_eq!(browser.count("script, img").await, 0, "{name}");
    }
    service2
}

async fn a_mistake_is_marked_at_its_field(browser: &Browser) -> Process {
    let (_service1, service2) = Process::pair(&[]);
    load(browser, &service2, "").await;
    fill_in(browser, "length", "1e3").await;
    fill_in(browser, "stream_length", "-1").await;
    submit(browser).await;
    assert_eq!(browser.count("[aria-invalid]").await, 2);
    for (field, typed, hint) in [
        ("length", "1e3", "whole number"),
        ("stream_length", "-1", "0 or more"),
    ] {
        let described = format!(
            "const field = document.getElementById('{field}');
             return [field.value, document.getElementById(field.getAttribute('aria-describedby')).innerText]"
        );
        let described = browser.run(&described).await;
        assert_eq!(described[0], typed);
        assert!(
            described[1]
                .as_str()
                .is_some_and(|text| text.contains(hint))
        );
    }
    assert_eq!(browser.text("h1").await, "Hello Gonzalo!");
    service2
}

async fn a_failure_is_shown_in_its_section(browser: &Browser) -> Process {
    let (service1, service2) = Process::pair(&[]);
    drop(service1);
    load(browser, &service2, "").await;
    let id = browser.text("#request-id").await;
    for section in ["header", "#all", "#streamed"] {
        let shown = browser.text(&format!("{section} .failure")).await;
        assert!(shown.contains("can't be reached; try again"), "{shown}");
        assert!(shown.contains(&id), "{shown}");
    }
    service2
}

/// Saves a picture of each screen in `target/screenshots`.
async fn the_page_fits_all_screens(browser: &Browser) -> Process {
    let (_service1, service2) = Process::pair(&[]);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../screenshots");
    fs::create_dir_all(&directory).expect("it can be written");
    for scheme in ["light", "dark"] {
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        browser.devtools("Emulation.setEmulatedMedia", media).await;
        for (screen, width) in [("phone", 390), ("desktop", 1280)] {
            let size = |height: Value| {
                json!({
                    "width": width,
                    "height": height,
                    "deviceScaleFactor": 1,
                    "mobile": screen == "phone",
                })
            };
            let metrics = "Emulation.setDeviceMetricsOverride";
            browser.devtools(metrics, size(json!(800))).await;
            load(browser, &service2, "").await;
            let overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
            assert_eq!(browser.run(overflow).await, 0, "{screen}");
            let height = browser
                .run("return document.documentElement.scrollHeight")
                .await;
            browser.devtools(metrics, size(height)).await;
            let picture = browser.screenshot().await;
            fs::write(directory.join(format!("{scheme}-{screen}.png")), picture)
                .expect("it can be written");
        }
    }
    service2
}
