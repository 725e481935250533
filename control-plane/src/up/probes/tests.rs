use super::*;

fn probe(purpose: Purpose, successes: u32, failures: u32) -> Probe {
    Probe {
        container: "a".into(),
        purpose,
        question: Question::Exec(vec!["true".into()]),
        initial_delay: Duration::ZERO,
        period: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        successes,
        failures,
    }
}

#[test]
fn many_answers_are_one_verdict() {
    let mut readiness = Verdict::new(&probe(Purpose::Readiness, 2, 3));
    assert!(!readiness.is_good, "not before it has said so");
    let decisions: Vec<bool> = [true, true, false, false, true, false, false, false, false, true, true]
        .into_iter()
        .map(|good| readiness.answer(good))
        .collect();
    assert_eq!(decisions, [false, true, false, false, false, false, false, true, true, false, true]);
    assert!(readiness.is_good);
    let mut liveness = Verdict::new(&probe(Purpose::Liveness, 1, 2));
    assert!(liveness.is_good && !liveness.answer(true) && !liveness.answer(false) && liveness.answer(false));
    // One that has never been ready says why, so that people see it.
    let mut never = Verdict::new(&probe(Purpose::Readiness, 1, 2));
    assert!(!never.answer(false) && never.answer(false) && !never.is_good);
}

#[test]
fn probes_are_read_and_passed_to_the_proxy() {
    let yaml = "
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  containers:
  - name: web
    image: x
    ports: [{name: http, containerPort: 8080}]
    readinessProbe: {httpGet: {path: /ready, port: http, httpHeaders: [{name: x-a, value: b}]}, periodSeconds: 2, successThreshold: 2}
    livenessProbe: {tcpSocket: {port: 8080}, initialDelaySeconds: 5, failureThreshold: 1, timeoutSeconds: 4}
    startupProbe: {exec: {command: [sh, -c, 'exit 0']}}
";
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("pod.yaml"), yaml).unwrap();
    let batch = crate::source::files::Files::read_once(dir.path()).unwrap();
    let objects = batch.changes.into_iter().filter_map(|change| match change {
        crate::source::Change::Applied(object) => Some(object),
        crate::source::Change::Deleted(_) => None,
    });
    let object = objects.last().unwrap();
    assert!(object.problems.is_empty(), "{:?}", object.problems);
    let mut spec = object.of::<crate::model::kinds::workload::Pod>().unwrap().spec.clone();
    let probes = of(&spec).unwrap();
    let of_purpose = |purpose| probes.iter().find(|probe| probe.purpose == purpose).unwrap();
    let ready = of_purpose(Purpose::Readiness);
    assert_eq!((ready.period, ready.successes, ready.failures), (Duration::from_secs(2), 2, 3));
    let live = of_purpose(Purpose::Liveness);
    assert_eq!((live.initial_delay, live.timeout), (Duration::from_secs(5), Duration::from_secs(4)));
    assert_eq!(of_purpose(Purpose::Startup).question, Question::Exec(["sh", "-c", "exit 0"].map(str::to_owned).into()));
    assert_eq!(
        for_proxy(&probes),
        json!({
            "/app-health/web/readyz": {"timeoutSeconds": 1, "httpGet": {
                "path": "/ready", "port": 8080, "scheme": "HTTP", "httpHeaders": [{"name": "x-a", "value": "b"}],
            }},
            "/app-health/web/livez": {"timeoutSeconds": 4, "tcpSocket": {"port": 8080}},
        })
    );
    spec.containers[0].ports.clear();
    let error = of(&spec).unwrap_err();
    assert_eq!(error, "container web: readinessProbe: the container has no port \"http\"");
}
