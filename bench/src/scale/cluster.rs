//! A made-up cluster of any size, as the files that describe it.
//!
//! Like the real thing: five pods of a replica set behind each service, with the containers and
//! annotations that injection writes; an endpoint slice per service; a route and a server on every
//! fourth. All in one namespace, where most can be mistaken for something to look at. A file holds
//! a pod, or a service with its slice, or a route with its server, so that a change is small.

use std::{fmt::Write, fs, io, path::Path};

/// Pods behind each service.
pub(crate) const PODS_EACH: usize = 5;

/// One service in so many has a route.
const SERVICES_PER_ROUTE: usize = 4;

/// A cluster of a number of pods.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cluster {
    pub(crate) pods: usize,
}

impl Cluster {
    pub(crate) fn services(self) -> usize {
        self.pods.div_ceil(PODS_EACH)
    }

    pub(crate) fn routes(self) -> usize {
        self.services().div_ceil(SERVICES_PER_ROUTE)
    }

    /// The service that a subscriber follows if the first is to be alone with its own. Of two
    /// services at least.
    pub(crate) fn apart(self, subscriber: usize) -> usize {
        match subscriber {
            0 => 0,
            other => 1 + (other - 1) % (self.services() - 1),
        }
    }

    /// Every file by its name.
    pub(crate) fn files(self) -> impl Iterator<Item = (String, String)> {
        let pods = (0..self.pods).map(|pod| (format!("pod-{pod}.yaml"), pod_file(pod)));
        let services = (0..self.services())
            .map(move |service| (format!("service-{service}.yaml"), self.service(service, true)));
        let routes = (0..self.routes()).map(|route| {
            let service = route * SERVICES_PER_ROUTE;
            (format!("route-{service}.yaml"), route_file(service))
        });
        let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n".to_owned();
        pods.chain(services).chain(routes).chain([("namespace.yaml".to_owned(), namespace)])
    }

    /// Writes everything into an empty directory.
    pub(crate) fn write(self, directory: &Path) -> io::Result<()> {
        self.files().try_for_each(|(name, text)| fs::write(directory.join(name), text))
    }

    /// A service with its slice; `is_whole` says whether its first pod is ready.
    pub(crate) fn service(self, service: usize, is_whole: bool) -> String {
        let mut text = format!(
            "apiVersion: v1
kind: Service
metadata:
  name: s{service}
  namespace: shop
  labels: {{app: s{service}}}
spec:
  type: ClusterIP
  clusterIP: {address}
  clusterIPs: [{address}]
  selector: {{app: s{service}}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: s{service}-x
  namespace: shop
  labels: {{kubernetes.io/service-name: s{service}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints:
",
            address = address(96, service),
        );
        let first = service * PODS_EACH;
        for pod in first..self.pods.min(first + PODS_EACH) {
            let is_ready = is_whole || pod != first;
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "- addresses: [{}]
  conditions: {{ready: {is_ready}}}
  nodeName: node-{}
  targetRef: {{kind: Pod, name: {}, namespace: shop}}
",
                address(1, pod),
                pod % 100,
                pod_name(pod)
            );
        }
        text
    }
}

/// Where clients reach a service.
pub(crate) fn authority(service: usize) -> String {
    format!("s{service}.shop.svc.cluster.local:80")
}

fn pod_name(pod: usize) -> String {
    format!("s{}-6d4cf56db6-{pod:05}", pod / PODS_EACH)
}

fn address(network: u8, number: usize) -> String {
    // Networks of 65,536 addresses, side by side.
    let network = usize::from(network) + (number >> 16);
    format!("10.{network}.{}.{}", (number >> 8) & 255, number & 255)
}

fn pod_file(pod: usize) -> String {
    let (service, name, address) = (pod / PODS_EACH, pod_name(pod), address(1, pod));
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: shop
  uid: 7a0e5a52-{pod:08}
  labels:
    app: s{service}
    pod-template-hash: 6d4cf56db6
    linkerd.io/control-plane-ns: linkerd
    linkerd.io/workload-ns: shop
    linkerd.io/proxy-deployment: s{service}
  annotations:
    linkerd.io/proxy-version: '1'
    linkerd.io/inject: enabled
    linkerd.io/created-by: hauberk
  ownerReferences:
  - {{apiVersion: apps/v1, kind: ReplicaSet, name: s{service}-6d4cf56db6, uid: a, controller: true}}
spec:
  serviceAccountName: s{service}
  nodeName: node-{node}
  containers:
  - name: linkerd-proxy
    image: hauberk-proxy:1
    env:
    - {{name: LINKERD2_PROXY_INBOUND_LISTEN_ADDR, value: '0.0.0.0:4143'}}
    - {{name: LINKERD2_PROXY_ADMIN_LISTEN_ADDR, value: '127.0.0.1:4191'}}
    - {{name: LINKERD2_PROXY_CONTROL_LISTEN_ADDR, value: '0.0.0.0:4190'}}
    ports:
    - {{name: linkerd-proxy, containerPort: 4143}}
    - {{name: linkerd-admin, containerPort: 4191}}
  - name: main
    image: shop/s{service}:1
    ports:
    - {{name: http, containerPort: 8080}}
    - {{name: metrics, containerPort: 9090}}
    readinessProbe: {{httpGet: {{path: /ready, port: http}}}}
status:
  phase: Running
  hostIP: 192.168.0.{node}
  podIP: {address}
  podIPs: [{{ip: {address}}}]
  conditions:
  - {{type: Ready, status: 'True'}}
  - {{type: ContainersReady, status: 'True'}}
",
        node = pod % 100
    )
}

fn route_file(service: usize) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r{service}, namespace: shop}}
spec:
  parentRefs: [{{kind: Service, group: '', name: s{service}, port: 80}}]
  rules:
  - matches: [{{path: {{type: PathPrefix, value: /api}}}}]
    backendRefs: [{{name: s{service}, port: 80}}]
    timeouts: {{request: 10s}}
  - matches: [{{path: {{type: PathPrefix, value: /}}}}]
    backendRefs: [{{name: s{service}, port: 80}}]
---
{}",
        server(service, "HTTP/1")
    )
}

/// The server on the pods of a service.
pub(crate) fn server(service: usize, protocol: &str) -> String {
    format!(
        "apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {{name: s{service}, namespace: shop}}
spec:
  podSelector: {{matchLabels: {{app: s{service}}}}}
  port: http
  proxyProtocol: {protocol}
  accessPolicy: all-unauthenticated
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use hauberk_resources::{Resource, yaml};

    #[test]
    fn every_file_can_be_used() {
        let cluster = Cluster { pods: 12 };
        let mut objects = 0;
        for (name, text) in cluster.files() {
            let (values, problems) = yaml::objects(&text);
            assert!(problems.is_empty(), "{name}: {problems:?}");
            for value in values {
                Resource::parse(value).unwrap_or_else(|error| panic!("{name}: {error}"));
                objects += 1;
            }
        }
        assert_eq!((cluster.services(), cluster.routes()), (3, 1));
        assert_eq!(objects, 12 + 2 * 3 + 2 + 1);
    }
}
