{{/* A container's environment: the service's settings, each under its real name. tests/deploy loads every one of them. */}}

{{- define "soundstage.env" -}}
{{- $root := .root -}}
{{- $values := include "soundstage.values" . | fromYaml -}}
{{- $prefix := printf "SOUNDSTAGE_%s_" (include "soundstage.service" . | upper) -}}
{{- $wired := include "soundstage.wired" . | fromYaml -}}
{{- range $field, $value := $wired }}
{{- if hasKey $values.settings $field }}
{{- fail (printf "settings.%s of %s is set by the chart; see values.yaml for the key that says it" $field $.component) }}
{{- end }}
{{- end }}
{{- range $field, $value := merge (dict) $wired $values.settings }}
- name: {{ $prefix }}{{ $field | upper }}
  value: {{ ternary $value ($value | toJson) (kindIs "string" $value) | quote }}
{{- end }}
- name: {{ $prefix }}S3_ACCESS_KEY
  {{- include "soundstage.fromSecret" (dict "name" $root.Values.s3.existingSecret.name "key" $root.Values.s3.existingSecret.accessKeyKey) | nindent 2 }}
- name: {{ $prefix }}S3_SECRET_KEY
  {{- include "soundstage.fromSecret" (dict "name" $root.Values.s3.existingSecret.name "key" $root.Values.s3.existingSecret.secretKeyKey) | nindent 2 }}
{{- if include "soundstage.tellsCost" . }}
- name: {{ $prefix }}POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- end }}
{{- if hasPrefix "gateway-" .component }}
- name: {{ $prefix }}DATABASE_URL
  {{- include "soundstage.fromSecret" $root.Values.postgresql.existingSecret | nindent 2 }}
{{- end }}
{{- with $values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "soundstage.fromSecret" -}}
valueFrom:
  secretKeyRef: {name: {{ .name | quote }}, key: {{ .key | quote }}}
{{- end -}}

{{/* What the chart itself says to a service, as a map from field to value. */}}
{{- define "soundstage.wired" -}}
{{- $root := .root -}}
{{- $values := include "soundstage.values" . | fromYaml -}}
host: 0.0.0.0
grpc_port: 50051
metrics_port: 9090
grace_seconds: {{ $values.graceSeconds }}
log_level: {{ $root.Values.logLevel }}
{{- with $root.Values.tracing }}
{{- if .endpoint }}
otlp_endpoint: {{ .endpoint | quote }}
trace_ratio: {{ .ratio }}
{{- end }}
{{- end }}
models_dir: {{ include "soundstage.modelsDir" $root }}
artifacts_url: {{ include "soundstage.artifactsUrl" $root | quote }}
{{- with $root.Values.s3.publicEndpoint }}
s3_public_endpoint: {{ . | quote }}
{{- end }}
{{- if $root.Values.s3.caSecret.name }}
s3_ca: {{ include "soundstage.s3Ca" $root }}
{{- end }}
{{- if hasPrefix "gateway-" .component }}
{{- include "soundstage.wiredGateway" . | nindent 0 }}
{{- else if $root.Values.tls.internal.enabled }}
tls_cert: /etc/soundstage/tls/tls.crt
tls_key: /etc/soundstage/tls/tls.key
tls_client_ca: /etc/soundstage/tls/ca.crt
tls_client_names:
  {{- range (ternary (list "gateway-api" "gateway-worker") (list "gateway-worker") (eq .component "encoder")) }}
  - {{ printf "%s.%s.svc" (include "soundstage.name" (dict "root" $root "component" .)) $root.Release.Namespace }}
  {{- end }}
{{- end }}
{{- if and $root.Values.triton.enabled (has .component (list "denoiser" "muxer")) }}
triton_addresses: {{ include "soundstage.tritonAddresses" $root }}
{{- end }}
{{- if eq .component "denoiser" }}
steps_at_once: {{ include "soundstage.stepsAtOnce" $root }}
{{- end }}
{{- end -}}

{{- define "soundstage.wiredGateway" -}}
{{- $root := .root -}}
role: {{ trimPrefix "gateway-" .component }}
default_model: {{ $root.Values.models.default | quote }}
temporal_address: {{ include "soundstage.temporalAddress" $root | quote }}
temporal_namespace: {{ $root.Values.temporal.namespace | quote }}
temporal_task_queue: {{ $root.Values.temporal.taskQueue | quote }}
encoder_address: {{ include "soundstage.address" (dict "root" $root "component" "encoder") }}
{{- if eq .component "gateway-worker" }}
{{- range (list "denoiser" "audio" "muxer") }}
{{ . }}_address: {{ include "soundstage.address" (dict "root" $root "component" .) }}
{{- end }}
max_concurrent_stages: {{ $root.Values.gatewayWorker.maxConcurrentStages }}
demand_clear_seconds: {{ $root.Values.autoscaling.queue.clearSeconds }}
demand_seconds_per_unit: {{ $root.Values.autoscaling.queue.secondsPerUnit }}
{{- else }}
api_keys: {{ $root.Values.auth.apiKeys }}
{{- with $root.Values.auth.oidc }}
{{- if .issuer }}
oidc_issuer: {{ .issuer | quote }}
oidc_audience: {{ .audience | quote }}
oidc_jwks_url: {{ .jwksUrl | quote }}
oidc_tenant_claim: {{ .tenantClaim | quote }}
{{- end }}
{{- end }}
{{- if $root.Values.tls.public.enabled }}
tls_cert: /etc/soundstage/public-tls/tls.crt
tls_key: /etc/soundstage/public-tls/tls.key
{{- end }}
{{- end }}
{{- if $root.Values.tls.internal.enabled }}
stages_ca: /etc/soundstage/tls/ca.crt
stages_cert: /etc/soundstage/tls/tls.crt
stages_key: /etc/soundstage/tls/tls.key
{{- end }}
{{- end -}}

{{- define "soundstage.modelsDir" -}}
{{- $models := .Values.models -}}
{{- if and $models.existingClaim $models.fetch -}}
{{- fail "models: existingClaim or fetch, not both: a pod has one models folder" -}}
{{- end -}}
{{- ternary "/models" "/app/models" (or (ne $models.existingClaim "") (gt (len $models.fetch) 0)) -}}
{{- end -}}

{{- define "soundstage.artifactsUrl" -}}
{{- $s3 := .Values.s3 -}}
{{- printf "s3://%s?endpoint=%s&secure=%s&region=%s" $s3.bucket (include "soundstage.s3Endpoint" .) (include "soundstage.s3Secure" .) $s3.region -}}
{{- end -}}

{{- define "soundstage.s3Endpoint" -}}
{{- if .Values.bundled.seaweedfs.enabled -}}
{{- printf "%s-seaweedfs:8333" (include "soundstage.fullname" .) -}}
{{- else -}}
{{- required "s3.endpoint: host:port of the S3 server, or bundled.seaweedfs.enabled=true to try things out" .Values.s3.endpoint -}}
{{- end -}}
{{- end -}}

{{/* Where its authority lies in every container that speaks to it; a volume and a mount bring it there. */}}
{{- define "soundstage.s3Ca" -}}/etc/soundstage/s3/ca.crt{{- end -}}

{{- define "soundstage.s3CaVolume" -}}
{{- with .Values.s3.caSecret -}}
{{- if .name -}}
- name: s3-ca
  secret: {secretName: {{ .name }}, defaultMode: 0440, items: [{key: {{ .key | quote }}, path: ca.crt}]}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "soundstage.s3CaMount" -}}
{{- if .Values.s3.caSecret.name -}}
- {name: s3-ca, mountPath: {{ include "soundstage.s3Ca" . | dir }}, readOnly: true}
{{- end -}}
{{- end -}}

{{- define "soundstage.s3Secure" -}}
{{- and .Values.s3.secure (not .Values.bundled.seaweedfs.enabled) -}}
{{- end -}}

{{- define "soundstage.temporalAddress" -}}
{{- if .Values.bundled.temporal.enabled -}}
{{- printf "%s-temporal:7233" (include "soundstage.fullname" .) -}}
{{- else -}}
{{- required "temporal.address: host:port of Temporal's frontend, or bundled.temporal.enabled=true to try things out" .Values.temporal.address -}}
{{- end -}}
{{- end -}}
