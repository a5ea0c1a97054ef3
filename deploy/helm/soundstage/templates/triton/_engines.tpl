{{/* Engines of TensorRT in the model store: what builds and what fetches them. Arguments: root, pool. */}}

{{/* Components of the Jobs, as a list: engines-default, … */}}
{{- define "soundstage.engineComponents" -}}
{{- $names := list -}}
{{- if and .Values.triton.enabled .Values.triton.engines.enabled -}}
{{- range .Values.triton.pools }}{{ $names = append $names (printf "engines-%s" .name) }}{{ end -}}
{{- end -}}
{{- toYaml $names -}}
{{- end -}}

{{/* Image and arguments of both: what is built is what is looked for. Further arguments: command, deadline. */}}
{{- define "soundstage.engineCommand" -}}
{{- $triton := .root.Values.triton -}}
{{- if hasPrefix "nvcr.io/nvidia/tritonserver" $triton.image -}}
{{- fail "triton.engines: NVIDIA's image lacks what builds and fetches them; build deploy/triton/Dockerfile and name it in triton.image" -}}
{{- end -}}
image: {{ $triton.image }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- include "soundstage.containerSecurity" . | nindent 0 }}
command: [python, -m, deploy.triton.engines, {{ .command }}]
args:
  {{- include "soundstage.engineModels" . | nindent 2 }}
  - --dtype={{ $triton.engines.dtype }}
  - --instances={{ $triton.engines.instances }}
  - --deadline-seconds={{ .deadline }}
{{- end -}}

{{/* URIs of the pool's models. */}}
{{- define "soundstage.engineModels" -}}
{{- $fetch := .root.Values.models.fetch -}}
{{- $found := list -}}
{{- range $model := .pool.models -}}
{{- $uri := "" -}}
{{- range $fetch }}{{ if contains (printf "/models/%s/" $model) . }}{{ $uri = . }}{{ end }}{{ end -}}
{{- $found = append $found (required (printf "triton.engines: models.fetch has no URI of %s, a model of pool %s" $model $.pool.name) $uri) -}}
{{- end -}}
{{- toYaml $found -}}
{{- end -}}

{{- define "soundstage.engineJobSpec" -}}
{{- $engines := .root.Values.triton.engines -}}
{{- $this := dict "root" .root "component" (printf "engines-%s" .pool.name) -}}
activeDeadlineSeconds: {{ $engines.deadlineSeconds }}
backoffLimit: 4
# 3, the store is away, is worth another try; 1 and 2 are not.
podFailurePolicy:
  rules:
    - action: FailJob
      onExitCodes: {containerName: build-engines, operator: In, values: [1, 2]}
    - action: Ignore
      onPodConditions: [{type: DisruptionTarget, status: "True"}]
template:
  metadata:
    labels:
      {{- include "soundstage.labels" $this | nindent 6 }}
  spec:
    {{- include "soundstage.podSecurity" .root | nindent 4 }}
    {{- $placed := set (deepCopy .pool) "spread" (dict "enabled" false) }}
    {{- $placed = set $placed "priorityClassName" (default .pool.priorityClassName $engines.priorityClassName) }}
    {{- include "soundstage.placement" (dict "values" $placed "selector" "") | nindent 4 }}
    restartPolicy: Never
    containers:
      - name: build-engines
        {{- include "soundstage.engineCommand" (dict "root" .root "pool" .pool "command" "build" "deadline" $engines.deadlineSeconds) | nindent 8 }}
          - --work=/tmp/engines
        # The end of its log is what `soundstage models publish --build-engines` shows.
        terminationMessagePolicy: FallbackToLogsOnError
        env:
          - {name: HOME, value: /tmp}
          {{- include "soundstage.modelStoreEnv" (dict "root" .root "secret" $engines.existingSecret) | nindent 10 }}
        resources:
          {{- toYaml (default .pool.resources $engines.resources) | nindent 10 }}
        volumeMounts:
          - {name: tmp, mountPath: /tmp}
          {{- with include "soundstage.s3CaMount" .root }}
          {{- . | nindent 10 }}
          {{- end }}
    volumes:
      - name: tmp
        emptyDir: {sizeLimit: {{ $engines.size }}}
      {{- with include "soundstage.s3CaVolume" .root }}
      {{- . | nindent 6 }}
      {{- end }}
{{- end -}}

{{/* With the pod's GPU, which it looks at; Kubernetes gives the same one to Triton afterwards. */}}
{{- define "soundstage.engineFetchContainer" -}}
{{- $engines := .root.Values.triton.engines -}}
name: fetch-engines
{{ include "soundstage.engineCommand" (dict "root" .root "pool" .pool "command" "fetch" "deadline" $engines.waitSeconds) }}
  - --cache=/engine-cache
  - --into=/repository
terminationMessagePolicy: FallbackToLogsOnError
env:
  - {name: HOME, value: /tmp}
  {{- include "soundstage.modelStoreEnv" (dict "root" .root "secret" .root.Values.models.fetching.existingSecret) | nindent 2 }}
resources:
  {{- toYaml .pool.resources | nindent 2 }}
volumeMounts:
  - {name: repository, mountPath: /repository}
  - {name: engine-cache, mountPath: /engine-cache}
  - {name: tmp, mountPath: /tmp}
  {{- with include "soundstage.s3CaMount" .root }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end -}}
