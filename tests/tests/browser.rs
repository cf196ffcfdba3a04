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
        run(&driver, "a failure is shown once", a_failure_is_shown_once).await;
        run(
            &driver,
            "lengths beyond the form are a mistake and no hang",
            lengths_beyond_the_form_are_a_mistake_and_no_hang,
        )
        .await;
        run(
            &driver,
            "the form leads to the way of the finished request",
            the_form_leads_to_the_way_of_the_finished_request,
        )
        .await;
        run(
            &driver,
            "the keyboard alone makes a greeting fail once",
            the_keyboard_alone_makes_a_greeting_fail_once,
        )
        .await;
        run(
            &driver,
            "the page fits all screens",
            the_page_fits_all_screens,
        )
        .await;
        run_apart(
            &driver,
            "scripts of a listed site alone read the responses",
            scripts_of_a_listed_site_alone_read_the_responses,
        )
        .await;
    });
    println!();
}

/// Runs one test in a window of its own, and then checks what every page promises.
async fn run(driver: &Driver, name: &str, test: impl AsyncFnOnce(&Browser) -> Process) {
    run_apart(driver, name, async |browser| {
        let service2 = test(browser).await;
        assert_nothing_is_wrong(browser, &format!("http://{}/", service2.http())).await;
    })
    .await;
}

/// Runs one test in a window of its own.
async fn run_apart(driver: &Driver, name: &str, test: impl AsyncFnOnce(&Browser)) {
    let browser = driver.open().await;
    test(&browser).await;
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
        (
            "length",
            "1e3",
            "Items in the list must be a whole number from 0 to 1,000.",
        ),
        (
            "stream_length",
            "-1",
            "Items in the stream must be a whole number from 0 to 1,000.",
        ),
    ] {
        let described = format!(
            "const field = document.getElementById('{field}');
             return [field.value, document.getElementById(field.getAttribute('aria-describedby')).innerText]"
        );
        let described = browser.run(&described).await;
        assert_eq!(described[0], typed);
        assert_eq!(described[1], hint);
    }
    assert_eq!(browser.text("h1").await, "Hello Gonzalo!");
    service2
}

async fn a_failure_is_shown_once(browser: &Browser) -> Process {
    let (service1, service2) = Process::pair(&[]);
    drop(service1);
    load(browser, &service2, "").await;
    let id = browser.text("#request-id").await;
    let shown = browser.text("header .failure").await;
    let told = "service1 can't be reached; try again. There is no greeting, no list, no stream.";
    assert!(shown.contains(told), "{shown}");
    assert!(shown.contains(&id), "{shown}");
    assert_eq!(browser.count(".failure").await, 1);
    service2
}

async fn lengths_beyond_the_form_are_a_mistake_and_no_hang(browser: &Browser) -> Process {
    let (_service1, service2) = Process::pair(&[]);
    load(browser, &service2, "?length=10000&stream_length=2000000000").await;
    assert_eq!(browser.count(".mistake").await, 2);
    load(browser, &service2, "?length=1000&stream_length=1000").await;
    assert_eq!(browser.count("#all li").await, 1_000);
    assert_eq!(browser.count("#streamed li").await, 1_000);
    service2
}

const DEVELOPMENT: [(&str, &str); 2] = [("RECENT_REQUESTS", "on"), ("FAULTS", "on")];

async fn the_form_leads_to_the_way_of_the_finished_request(browser: &Browser) -> Process {
    let (service1, service2) = Process::pair(&DEVELOPMENT);
    load(browser, &service2, "").await;
    fill_in(browser, "name", "Ada").await;
    submit(browser).await;
    let path = browser.run("return location.pathname").await;
    assert!(
        path.as_str()
            .is_some_and(|path| path.starts_with("/requests/")),
        "{path}"
    );
    assert_eq!(browser.text("h1").await, "Hello Ada!");
    let rows = browser.text(".way tbody").await;
    assert!(
        rows.contains(&format!("first attempt on {}", service1.grpc())),
        "{rows}"
    );
    // The bar of an attempt lies within that of its call, and that within the one of the request.
    let bars = "
        const bar = row => row.querySelector('rect.span').getBoundingClientRect();
        const lies = (inner, outer) => inner.left >= outer.left - 1 && inner.right <= outer.right + 1;
        const rows = [...document.querySelectorAll('.way tbody tr')];
        return rows.length == 7 && rows.slice(1).every((row, index) =>
            bar(row).width > 0 && lies(bar(row), bar(rows[index % 2 ? index : 0])));";
    assert_eq!(browser.run(bars).await, true);
    // Reloading shows the same request.
    let id = browser.text("#request-id").await;
    browser
        .goto(&format!(
            "http://{}{}",
            service2.http(),
            path.as_str().expect("a path")
        ))
        .await;
    browser.find("footer").await;
    assert_eq!(browser.text("#request-id").await, id);
    service2
}

async fn the_keyboard_alone_makes_a_greeting_fail_once(browser: &Browser) -> Process {
    let (_service1, service2) = Process::pair(&DEVELOPMENT);
    load(browser, &service2, "").await;
    let before = browser.text("#request-id").await;
    let name = browser.find("#name").await;
    // Tab leaves each field and button in turn, up to the last button, and Enter presses it.
    name.send_keys("\u{E004}").await.expect("it is a field");
    for _ in 0..4 {
        browser.press("\u{E004}").await;
    }
    let focus = "return document.activeElement.textContent";
    assert_eq!(browser.run(focus).await, "Fail the greeting once");
    browser.press("\u{E007}").await;
    let changed = format!(
        "return document.querySelector('footer') && document.querySelector('#request-id').textContent != '{before}'"
    );
    browser.wait_until(&changed).await;
    let rows = browser.text(".way tbody").await;
    assert!(
        rows.contains("UNAVAILABLE") && rows.contains("retry on"),
        "{rows}"
    );
    service2
}

/// The contrast between the border of a field and what lies on either side of it (WCAG 2, 1.4.11).
const CONTRAST_OF_FIELDS: &str = "
    const paint = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const luminance = color => {
        paint.fillStyle = color;
        paint.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...paint.getImageData(0, 0, 1, 1).data].map(byte => {
            const part = byte / 255;
            return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const contrast = (one, other) => {
        const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
        return (light + 0.05) / (dark + 0.05);
    };
    const field = document.querySelector('input');
    const style = getComputedStyle(field), card = getComputedStyle(field.closest('.card'));
    return Math.min(
        contrast(style.borderTopColor, style.backgroundColor),
        contrast(style.borderTopColor, card.backgroundColor));";

/// Saves a picture of each screen in `target/screenshots`.
async fn the_page_fits_all_screens(browser: &Browser) -> Process {
    let (_service1, service2) = Process::pair(&DEVELOPMENT);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../screenshots");
    fs::create_dir_all(&directory).expect("it can be written");
    for scheme in ["light", "dark"] {
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        browser.devtools("Emulation.setEmulatedMedia", media).await;
        for (screen, width) in [("phone", 360), ("tablet", 768), ("desktop", 1440)] {
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
            let contrast = browser.run(CONTRAST_OF_FIELDS).await;
            let contrast = contrast.as_f64().expect("a number");
            assert!(contrast >= 3.0, "{scheme}: {contrast}");
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

/// The other site is service1, of which a document without a policy is open.
async fn scripts_of_a_listed_site_alone_read_the_responses(browser: &Browser) {
    let service1 = Process::start("service1", &[]);
    let site = format!("http://{}", service1.http());
    let service2 = Process::service2(&service1, &[("CORS_ORIGINS", &site)]);
    service2.wait_until_ready();
    let fetched = async |path: &str, headers: Value| {
        let script = format!(
            "return fetch('http://{}{path}', {{ headers: {headers} }}).then(
                 async it => [it.status, await it.json(), it.headers.get('x-request-id'),
                              it.headers.get('server-timing')],
                 error => error.name)",
            service2.http()
        );
        browser.run(&script).await
    };
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = json!({"x-request-id": "order-17", "traceparent": trace});
    let open = async |site: &str| {
        let document = format!("{site}/healthz");
        browser.goto(&document).await;
        let is_open =
            format!("return location.href == '{document}' && document.readyState == 'complete'");
        browser.wait_until(&is_open).await;
    };
    open(&site).await;
    let hello = fetched("/api/v1/say-hello?name=test", headers.clone()).await;
    assert_eq!(hello[0], 200, "{hello}");
    assert_eq!(
        (&hello[1], &hello[2]),
        (&json!("Hello, TEST!"), &json!("order-17"))
    );
    let timing = hello[3].as_str().expect("it is exposed");
    assert!(timing.contains("ProcessName"), "{timing}");
    let nowhere = fetched("/nowhere", headers.clone()).await;
    assert_eq!(nowhere[0], 404, "{nowhere}");
    assert_eq!(nowhere[1]["request_id"], "order-17");

    let port = service1.http().port();
    open(&format!("http://localhost:{port}")).await;
    let refused = fetched("/api/v1/say-hello?name=test", json!({})).await;
    assert_eq!(refused, "TypeError", "another origin is not listed");
    let refused = fetched("/nowhere", headers.clone()).await;
    assert_eq!(refused, "TypeError");

    open(&site).await;
    drop(service1);
    let unavailable = fetched("/api/v1/say-hello?name=test", headers).await;
    assert_eq!(unavailable[0], 503, "{unavailable}");
    assert_eq!(unavailable[1]["request_id"], "order-17");
}
