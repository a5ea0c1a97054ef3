{{/* Components of the pools, as a list: triton-default, … */}}
{{- define "soundstage.tritonComponents" -}}
{{- $names := list -}}
{{- if .Values.triton.enabled -}}
{{- range .Values.triton.pools }}{{ $names = append $names (printf "triton-%s" .name) }}{{ end -}}
{{- end -}}
{{- toYaml $names -}}
{{- end -}}

{{/* Model -> addresses of the pools that hold it, as JSON. */}}
{{- define "soundstage.tritonAddresses" -}}
{{- $addresses := dict -}}
{{- range $pool := .Values.triton.pools -}}
{{- $address := printf "%s.%s.svc:8001" (include "soundstage.name" (dict "root" $ "component" (printf "triton-%s" $pool.name))) $.Release.Namespace -}}
{{- range $pool.models }}{{ $_ := set $addresses . (append (get $addresses . | default list) $address) }}{{ end -}}
{{- end -}}
{{- toJson $addresses -}}
{{- end -}}

{{/* The containers of a pool. Arguments: root, pool. */}}
{{- define "soundstage.tritonContainer" -}}
{{- $triton := .root.Values.triton -}}
name: triton
image: {{ $triton.image }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- include "soundstage.containerSecurity" . | nindent 0 }}
command: [tritonserver]
args:
  - --model-repository=/repository
  - --model-control-mode=explicit
  - --load-model=*
  - --disable-auto-complete-config
  - --strict-readiness=true
  - --exit-timeout-secs={{ $triton.exitTimeoutSeconds }}
  - --grpc-port=8001
  - --http-port=8000
  - --metrics-port=8002
  # Callers find pods that came later when their connections are renewed.
  - --grpc-max-connection-age=300000
  - --grpc-max-connection-age-grace=600000
ports:
  - {name: grpc, containerPort: 8001}
  - {name: http, containerPort: 8000}
  - {name: metrics, containerPort: 8002}
env:
  - {name: HOME, value: /tmp}
# By inferences: Triton's own readiness stays true after a model has crashed. Being busy is no reason to be left out.
startupProbe:
  exec: {command: [python3, /probe/ready.py, --port=8000, --seconds=60]}
  periodSeconds: 10
  timeoutSeconds: 70
  failureThreshold: {{ max 1 (div (add $triton.startupSeconds 9) 10) }}
readinessProbe:
  exec: {command: [python3, /probe/ready.py, --port=8000, --seconds=10, --busy=ok]}
  periodSeconds: 10
  timeoutSeconds: 20
  failureThreshold: 2
livenessProbe:
  exec: {command: [python3, /probe/ready.py, --port=8000, --seconds={{ $triton.stuckSeconds }}]}
  periodSeconds: 20
  timeoutSeconds: {{ add $triton.stuckSeconds 10 }}
  failureThreshold: 2
lifecycle:
  preStop:
    sleep: {seconds: 10}
resources:
  {{- toYaml .pool.resources | nindent 2 }}
volumeMounts:
  - {name: repository, mountPath: /repository, readOnly: true}
  {{- if $triton.engines.enabled }}
  - {name: engine-cache, mountPath: /engine-cache, readOnly: true}
  {{- end }}
  - {name: probe, mountPath: /probe, readOnly: true}
  - {name: tmp, mountPath: /tmp}
  - {name: shm, mountPath: /dev/shm}
{{- end -}}
