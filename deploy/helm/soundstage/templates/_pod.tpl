{{/* The pod of a component, under the restricted Pod Security Standard. */}}

{{- define "soundstage.deployment" -}}
{{- $values := include "soundstage.values" . | fromYaml -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "soundstage.metadata" . | nindent 2 }}
spec:
  {{- if not (include "soundstage.scaled" .) }}
  replicas: {{ $values.replicas }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "soundstage.selector" . | nindent 6 }}
  strategy:
    # As many at once as may be away in a drain: one by one, a large fleet would take days.
    rollingUpdate: {maxUnavailable: 0, maxSurge: {{ $values.podDisruptionBudget.maxUnavailable }}}
  # A rollout counts as failed when nothing has become ready for so long: a node, its image, and what loads before that.
  progressDeadlineSeconds: {{ add 600 $values.startupSeconds (include "soundstage.fetchSeconds" .root) }}
  template:
    metadata:
      labels:
        {{- include "soundstage.labels" . | nindent 8 }}
        {{- with $values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      {{- include "soundstage.podSettings" . | nindent 6 }}
      # 5 s until everybody knows that it goes, the grace, and what the server needs to unwind (15 s at most).
      terminationGracePeriodSeconds: {{ add 20 $values.graceSeconds }}
      {{- with include "soundstage.fetchContainer" . }}
      initContainers:
        - {{- . | nindent 10 }}
      {{- end }}
      containers:
        - name: {{ .component }}
          image: {{ include "soundstage.image" . }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          {{- include "soundstage.containerSecurity" . | nindent 10 }}
          ports:
            - {name: grpc, containerPort: 50051}
            - {name: metrics, containerPort: 9090}
          env:
            {{- include "soundstage.env" . | trim | nindent 12 }}
          {{- include "soundstage.probes" (dict "root" .root "component" .component "startupSeconds" $values.startupSeconds) | nindent 10 }}
          lifecycle:
            preStop:
              sleep: {seconds: 5}
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            {{- if .root.Values.models.existingClaim }}
            - {name: models, mountPath: /models, readOnly: true}
            {{- else if .root.Values.models.fetch }}
            - {name: models, mountPath: /models, readOnly: true}
            - {name: model-cache, mountPath: /model-cache, readOnly: true}
            {{- end }}
            {{- range $name, $secret := include "soundstage.certificates" . | fromYaml }}
            - {name: {{ $name }}, mountPath: /etc/soundstage/{{ $name }}, readOnly: true}
            {{- end }}
            {{- with include "soundstage.s3CaMount" .root }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- if include "soundstage.tellsCost" . }}
            - {name: kubernetes, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
            {{- end }}
            {{- with $values.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - name: tmp
          emptyDir: {sizeLimit: {{ $values.tmpSize }}}
        {{- with .root.Values.models.existingClaim }}
        - name: models
          persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}
        {{- end }}
        {{- if .root.Values.models.fetch }}
        - name: models
          emptyDir: {sizeLimit: 1Mi}
        - name: model-cache
          {{- with .root.Values.models.fetching.cacheClaim }}
          persistentVolumeClaim: {claimName: {{ . }}}
          {{- else }}
          emptyDir: {sizeLimit: {{ .root.Values.models.fetching.size }}}
          {{- end }}
        {{- end }}
        {{- range $name, $secret := include "soundstage.certificates" . | fromYaml }}
        - name: {{ $name }}
          secret: {secretName: {{ $secret }}, defaultMode: 0440}
        {{- end }}
        {{- with include "soundstage.s3CaVolume" .root }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- if include "soundstage.tellsCost" . }}
        - name: kubernetes
          projected:
            defaultMode: 0440
            sources:
              - serviceAccountToken: {path: token, expirationSeconds: 3607}
              - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
              - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
        {{- end }}
        {{- with $values.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- end -}}

{{/* "true" where a component tells Kubernetes its deletion cost, or nothing. */}}
{{- define "soundstage.tellsCost" -}}
{{- ternary "true" "" (and (eq .component "denoiser") .root.Values.autoscaling.deletionCost.enabled) -}}
{{- end -}}

{{/*
Fetches the models before the service starts; nothing without any. Where pods share a cache it stays beside the service:
the locks of a living process keep others from evicting what this pod uses.
*/}}
{{- define "soundstage.fetchContainer" -}}
{{- $models := .root.Values.models -}}
{{- $fetching := $models.fetching -}}
{{- if $models.fetch -}}
name: fetch-models
image: {{ include "soundstage.image" . }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- include "soundstage.containerSecurity" . | nindent 0 }}
command: [python, -m, deploy.models, fetch]
args:
  {{- toYaml $models.fetch | nindent 2 }}
  - --cache=/model-cache
  - --into=/models
  - --parallel={{ $fetching.parallel }}
  - --deadline-seconds={{ $fetching.deadlineSeconds }}
  {{- if hasPrefix "gateway-" .component }}
  - --only=soundstage.json
  {{- end }}
  {{- if $fetching.cacheClaim }}
  - --cache-gib={{ $fetching.cacheGib }}
  - --hold
restartPolicy: Always
startupProbe:
  exec:
    command: [test, -e, /models/.ready]
  periodSeconds: 2
  failureThreshold: {{ div (mul (add $fetching.deadlineSeconds 60) (len $models.fetch)) 2 }}
  {{- end }}
env:
  {{- include "soundstage.modelStoreEnv" (dict "root" .root "secret" $fetching.existingSecret) | nindent 2 }}
resources:
  {{- toYaml $fetching.resources | nindent 2 }}
volumeMounts:
  - {name: models, mountPath: /models}
  - {name: model-cache, mountPath: /model-cache}
  - {name: tmp, mountPath: /tmp}
  {{- with include "soundstage.s3CaMount" .root }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* How long fetching all models may take. */}}
{{- define "soundstage.fetchSeconds" -}}
{{- mul .Values.models.fetching.deadlineSeconds (len .Values.models.fetch) -}}
{{- end -}}

{{/* Where the model store is. Arguments: root, secret (with the keys; empty: that of the artifacts). */}}
{{- define "soundstage.modelStoreEnv" -}}
{{- $secret := .root.Values.s3.existingSecret -}}
{{- $name := default $secret.name .secret -}}
- {name: SOUNDSTAGE_MODELS_S3_ENDPOINT, value: {{ include "soundstage.s3Endpoint" .root | quote }}}
- {name: SOUNDSTAGE_MODELS_S3_SECURE, value: {{ include "soundstage.s3Secure" .root | quote }}}
{{- if .root.Values.s3.caSecret.name }}
- {name: SOUNDSTAGE_MODELS_S3_CA, value: {{ include "soundstage.s3Ca" .root }}}
{{- end }}
- {name: SOUNDSTAGE_MODELS_S3_REGION, value: {{ .root.Values.s3.region | quote }}}
- name: SOUNDSTAGE_MODELS_S3_ACCESS_KEY
  {{- include "soundstage.fromSecret" (dict "name" $name "key" $secret.accessKeyKey) | nindent 2 }}
- name: SOUNDSTAGE_MODELS_S3_SECRET_KEY
  {{- include "soundstage.fromSecret" (dict "name" $name "key" $secret.secretKeyKey) | nindent 2 }}
{{- end -}}

{{/* What every pod of the chart has. */}}
{{- define "soundstage.podSettings" -}}
{{- $values := include "soundstage.values" . | fromYaml -}}
{{- include "soundstage.podSecurity" .root }}
{{- include "soundstage.placement" (dict "values" $values "selector" (include "soundstage.selector" .)) }}
{{- end -}}

{{- define "soundstage.podSecurity" -}}
serviceAccountName: {{ include "soundstage.fullname" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "soundstage.placement" }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if dig "spread" "enabled" true .values }}
topologySpreadConstraints:
  {{- range (list "topology.kubernetes.io/zone" "kubernetes.io/hostname") }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: {{ dig "spread" "whenUnsatisfiable" "ScheduleAnyway" $.values }}
    labelSelector:
      matchLabels:
        {{- $.selector | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}
{{- end -}}

{{- define "soundstage.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* gRPC health. A kubelet shows no certificate and checks none: over TLS, the image's own client asks. */}}
{{- define "soundstage.probes" -}}
{{- $check := include "soundstage.healthCheck" . -}}
startupProbe:
  {{- $check | nindent 2 }}
  periodSeconds: 5
  timeoutSeconds: 10
  failureThreshold: {{ max 1 (div (add .startupSeconds 4) 5) }}
readinessProbe:
  {{- $check | nindent 2 }}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 2
livenessProbe:
  {{- $check | nindent 2 }}
  periodSeconds: 20
  timeoutSeconds: 10
  failureThreshold: 3
{{- end -}}

{{- define "soundstage.healthCheck" -}}
{{- if include "soundstage.servesTls" . -}}
exec:
  command: [python, -m, libs.serving.probe, --name={{ include "soundstage.tlsName" . }}, --ca=/etc/soundstage/{{ ternary "public-tls" "tls" (eq .component "gateway-api") }}/ca.crt{{ if ne .component "gateway-api" }}, --cert=/etc/soundstage/tls/tls.crt, --key=/etc/soundstage/tls/tls.key{{ end }}]
{{- else -}}
grpc: {port: 50051}
{{- end -}}
{{- end -}}

{{/* "true" or nothing. */}}
{{- define "soundstage.servesTls" -}}
{{- $tls := .root.Values.tls -}}
{{- if eq .component "gateway-api" -}}
{{- ternary "true" "" $tls.public.enabled -}}
{{- else if ne .component "gateway-worker" -}}
{{- ternary "true" "" $tls.internal.enabled -}}
{{- end -}}
{{- end -}}

{{/* A name that is in the certificate of the component's port. */}}
{{- define "soundstage.tlsName" -}}
{{- if eq .component "gateway-api" -}}
{{- required "tls.public.dnsNames: the names under which callers reach the gateway" (first .root.Values.tls.public.dnsNames) -}}
{{- else -}}
{{- printf "%s.%s.svc" (include "soundstage.name" .) .root.Release.Namespace -}}
{{- end -}}
{{- end -}}

{{/* Folder below /etc/soundstage -> secret. */}}
{{- define "soundstage.certificates" -}}
{{- $tls := .root.Values.tls -}}
{{- if $tls.internal.enabled }}
tls: {{ include "soundstage.internalSecret" . }}
{{- end }}
{{- if and $tls.public.enabled (eq .component "gateway-api") }}
public-tls: {{ include "soundstage.publicSecret" .root }}
{{- end }}
{{- end -}}

{{- define "soundstage.internalSecret" -}}
{{- $given := get .root.Values.tls.internal.existingSecrets .component -}}
{{- if or $given .root.Values.tls.internal.certManager.enabled -}}
{{- default (printf "%s-tls" (include "soundstage.name" .)) $given -}}
{{- else -}}
{{- fail (printf "tls.internal: name a secret in existingSecrets.%s, or let cert-manager make it (certManager.enabled)" .component) -}}
{{- end -}}
{{- end -}}

{{- define "soundstage.publicSecret" -}}
{{- $public := .Values.tls.public -}}
{{- if or $public.existingSecret $public.certManager.enabled -}}
{{- default (printf "%s-public-tls" (include "soundstage.fullname" .)) $public.existingSecret -}}
{{- else -}}
{{- fail "tls.public: name existingSecret, or let cert-manager make it (certManager.enabled)" -}}
{{- end -}}
{{- end -}}
