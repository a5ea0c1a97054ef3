{{/*
Scaling on the work in the queue. Arguments: root, component, replicas, maxReplicas, query (SQL, one number: videos, or
videos' worth of replicas), videos (how many for one replica), metric (the external one that says the same), models
(its label, empty for all), never (to zero).
*/}}

{{- define "soundstage.queueScaler" -}}
{{- $autoscaling := .root.Values.autoscaling -}}
{{- if and (ne $autoscaling.mode "none") (gt (int .maxReplicas) (int .replicas)) -}}
{{- if eq $autoscaling.mode "keda" -}}
{{- include "soundstage.scaledObject" . -}}
{{- else -}}
{{- include "soundstage.externalAutoscaler" . -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Videos that step at once in a denoiser; what it is told, and what its replicas are counted by. */}}
{{- define "soundstage.stepsAtOnce" -}}
{{- .Values.denoiser.videosPerReplica | default (ternary 4 1 .Values.triton.enabled) -}}
{{- end -}}

{{- define "soundstage.scaledObject" -}}
{{- include "soundstage.needs" (dict "root" .root "api" "keda.sh/v1alpha1" "wanted" "autoscaling.mode=keda" "instead" "install KEDA 2.20 or newer, or set autoscaling.mode to hpa or none") -}}
{{- $autoscaling := .root.Values.autoscaling -}}
{{- $toZero := and $autoscaling.queue.scaleToZero (not .never) -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  {{- include "soundstage.metadata" . | nindent 2 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ include "soundstage.name" . }}}
  pollingInterval: {{ $autoscaling.keda.pollingSeconds }}
  cooldownPeriod: {{ $autoscaling.keda.cooldownSeconds }}
  minReplicaCount: {{ ternary 0 .replicas $toZero }}
  maxReplicaCount: {{ .maxReplicas }}
  fallback:
    failureThreshold: {{ $autoscaling.keda.fallbackFailures }}
    replicas: {{ max 1 .replicas }}
    behavior: currentReplicasIfHigher
  advanced:
    restoreToOriginalReplicaCount: false
    horizontalPodAutoscalerConfig:
      behavior:
        {{- include "soundstage.behavior" .root | nindent 8 }}
  triggers:
    - type: postgresql
      name: queue
      metricType: AverageValue
      metadata:
        query: {{ .query | quote }}
        targetQueryValue: {{ include "soundstage.perReplica" . | quote }}
        activationTargetQueryValue: "0"
      authenticationRef: {name: {{ include "soundstage.fullname" .root }}-queue}
{{- end -}}

{{- define "soundstage.externalAutoscaler" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "soundstage.metadata" . | nindent 2 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ include "soundstage.name" . }}}
  minReplicas: {{ max 1 .replicas }}
  maxReplicas: {{ .maxReplicas }}
  metrics:
    - type: External
      external:
        metric:
          name: {{ .root.Values.autoscaling.hpa.metricPrefix }}{{ .metric }}
          selector:
            matchLabels: {namespace: {{ .root.Release.Namespace }}}
            {{- with .models }}
            matchExpressions:
              - {key: model, operator: In, values: {{ toJson . }}}
            {{- end }}
        target: {type: AverageValue, averageValue: {{ include "soundstage.milli" . | quote }}}
  behavior:
    {{- include "soundstage.behavior" .root | nindent 4 }}
{{- end -}}

{{/* What a replica should have of the metric, with the headroom taken off. */}}
{{- define "soundstage.perReplica" -}}
{{- divf (mulf .videos 100) (addf 100 .root.Values.autoscaling.queue.headroomPercent) | printf "%.3f" -}}
{{- end -}}

{{- define "soundstage.milli" -}}
{{- include "soundstage.perReplica" . | float64 | mulf 1000 | int64 }}m
{{- end -}}

{{/*
How many videos should be at work at once: each one that is, since what works for it must not be taken away, and of each
that is queued a share, so that many short ones ask for little. services/gateway/demand.py says the same; a test compares.
Arguments: root, models (empty for all), stage (without the videos that have it behind them; empty for all).
*/}}
{{- define "soundstage.demandQuery" -}}
{{- $queue := .root.Values.autoscaling.queue -}}
SELECT COALESCE(SUM(CASE WHEN queue.admit_time IS NOT NULL THEN 1.0 ELSE LEAST(1.0, COALESCE((videos.expected_seconds ->> 'denoise')::float8, queue.cost * {{ $queue.secondsPerUnit }}) / {{ $queue.clearSeconds }}) END), 0)::float8
{{- print " " -}}
FROM queue JOIN videos USING (video_id) WHERE TRUE
{{- with .stage }} AND NOT EXISTS (SELECT 1 FROM stage_attempts AS done WHERE done.video_id = queue.video_id AND done.stage = '{{ . }}' AND done.won = 1){{ end }}
{{- with .models }} AND videos.model IN ('{{ join "', '" . }}'){{ end }}
{{- end -}}
