{{/*
A component's NetworkPolicy: just the arrows of the architecture. Arguments: root, component, from and to (components),
stores (postgresql, temporal, s3, oidc, kubernetes; a collector of traces is for every service), everybody (may callers
come from outside), tested (by `helm test`), unmeasured (it has no metrics to be read, and sends no traces).
*/}}

{{- define "soundstage.networkPolicy" -}}
{{- $root := .root -}}
{{- if $root.Values.networkPolicy.enabled -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "soundstage.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "soundstage.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  {{- $callers := .from -}}
  {{- $stores := .stores -}}
  {{- if and $root.Values.tracing.endpoint (not .unmeasured) (not (hasPrefix "triton-" .component)) }}{{ $stores = append $stores "otlp" }}{{ end }}
  {{- if and $root.Values.tests.enabled .tested }}{{ $callers = append $callers "test" }}{{ end }}
  {{- if .unmeasured }}
  ingress: []
  {{- else }}
  ingress:
    - from:
        {{- toYaml $root.Values.networkPolicy.prometheus | nindent 8 }}
      ports:
        - {port: {{ default 9090 .metricsPort }}, protocol: TCP}
    {{- if .everybody }}
    - {{ if $root.Values.networkPolicy.clients -}}
      from:
        {{- toYaml $root.Values.networkPolicy.clients | nindent 8 }}
      {{ end -}}
      ports:
        - {port: 50051, protocol: TCP}
    {{- end }}
    {{- /* A rule without peers would let everybody in. */}}
    {{- if $callers }}
    - from:
        {{- range $callers }}
        - podSelector:
            matchLabels:
              {{- include "soundstage.selector" (dict "root" $root "component" .) | nindent 14 }}
        {{- end }}
      ports:
        - {port: {{ default 50051 .port }}, protocol: TCP}
    {{- end }}
  {{- end }}
  egress:
    {{- if or .to $stores }}
    {{- include "soundstage.dnsEgress" $root | nindent 4 }}
    {{- end }}
    {{- range .to }}
    - to:
        - podSelector:
            matchLabels:
              {{- include "soundstage.selector" (dict "root" $root "component" .) | nindent 14 }}
      ports:
        - {port: {{ ternary 8001 50051 (hasPrefix "triton-" .) }}, protocol: TCP}
    {{- end }}
    {{- range $stores }}
    {{- include "soundstage.storeEgress" (dict "root" $root "store" .) | nindent 4 }}
    {{- end }}
    {{- if not (or .to $stores) }} []{{ end }}
{{- end -}}
{{- end -}}

{{- define "soundstage.dnsEgress" -}}
- to:
    {{- toYaml .Values.networkPolicy.dns | nindent 4 }}
  ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end -}}

{{/* To a bundled store by its pods, to another one by the given peers. */}}
{{- define "soundstage.storeEgress" -}}
{{- $values := .root.Values -}}
{{- $bundled := dict "postgresql" "postgresql" "temporal" "temporal" "s3" "seaweedfs" -}}
{{- $ports := dict "postgresql" 5432 "temporal" 7233 "s3" 8333 -}}
{{- $own := get $bundled .store -}}
{{- $rule := get $values.networkPolicy .store -}}
{{- $address := get (dict "temporal" $values.temporal.address "s3" $values.s3.endpoint "otlp" (regexReplaceAll "^https?://|/.*$" $values.tracing.endpoint "")) .store -}}
{{- $plain := or (and (eq .store "s3") (not $values.s3.secure)) (and (eq .store "otlp") (hasPrefix "http://" $values.tracing.endpoint)) -}}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $address) | default (ternary "80" "443" $plain) -}}
{{- if and $own (index $values.bundled $own).enabled -}}
- to:
    - podSelector:
        matchLabels:
          {{- include "soundstage.selector" (dict "root" .root "component" $own) | nindent 10 }}
  ports:
    - {port: {{ get $ports .store }}, protocol: TCP}
{{- else -}}
- {{ if $rule.to -}}
  to:
    {{- toYaml $rule.to | nindent 4 }}
  {{ end -}}
  ports:
    - {port: {{ default $port $rule.port }}, protocol: TCP}
{{- end -}}
{{- end -}}

{{/* Of a bundled store. Arguments: root, component, port, from (components), outside (peers), everybody. */}}
{{- define "soundstage.storeNetworkPolicy" -}}
{{- $root := .root -}}
{{- if $root.Values.networkPolicy.enabled -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "soundstage.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "soundstage.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    - from:
        {{- range .from }}
        - podSelector:
            matchLabels:
              {{- include "soundstage.selector" (dict "root" $root "component" .) | nindent 14 }}
        {{- end }}
        {{- with .outside }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - {port: {{ .port }}, protocol: TCP}
    {{- if .everybody }}
    - ports:
        - {port: {{ .port }}, protocol: TCP}
    {{- end }}
  egress: []
{{- end -}}
{{- end -}}
