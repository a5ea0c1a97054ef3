{{/* The objects beside a component's Deployment. */}}

{{- define "soundstage.headlessService" -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "soundstage.metadata" . | nindent 2 }}
spec:
  # Callers see every pod, and spread their calls over them.
  clusterIP: None
  selector:
    {{- include "soundstage.selector" . | nindent 4 }}
  ports:
    - {name: grpc, port: 50051, targetPort: grpc{{ include "soundstage.appProtocol" . }}}
    - {name: metrics, port: 9090, targetPort: metrics}
{{- end -}}

{{/* h2c is HTTP/2 in plaintext: meshes and gateways that are told so cannot speak to a port with TLS. */}}
{{- define "soundstage.appProtocol" -}}
{{- if not (include "soundstage.servesTls" .) }}, appProtocol: kubernetes.io/h2c{{ end -}}
{{- end -}}

{{- define "soundstage.podDisruptionBudget" -}}
{{- $values := include "soundstage.values" . | fromYaml -}}
{{- if $values.podDisruptionBudget.enabled -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "soundstage.metadata" . | nindent 2 }}
spec:
  maxUnavailable: {{ $values.podDisruptionBudget.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "soundstage.selector" . | nindent 6 }}
{{- end -}}
{{- end -}}

{{/* A certificate for both sides of mTLS, unless its secret is given. */}}
{{- define "soundstage.certificate" -}}
{{- $internal := .root.Values.tls.internal -}}
{{- if and $internal.enabled $internal.certManager.enabled (not (get $internal.existingSecrets .component)) -}}
{{- include "soundstage.needs" (dict "root" .root "api" "cert-manager.io/v1" "wanted" "tls.internal.certManager" "instead" "install cert-manager, or name secrets in tls.internal.existingSecrets") -}}
{{- $name := include "soundstage.name" . -}}
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  {{- include "soundstage.metadata" . | nindent 2 }}
spec:
  secretName: {{ include "soundstage.internalSecret" . }}
  # gRPC compares the name that was called with the DNS names.
  dnsNames:
    - {{ $name }}.{{ .root.Release.Namespace }}.svc
    - {{ $name }}
  usages: [digital signature, key encipherment, server auth, client auth]
  privateKey: {algorithm: ECDSA, size: 256, rotationPolicy: Always}
  issuerRef:
    {{- if not $internal.certManager.issuerRef.name }}
    {{- fail "tls.internal.certManager.issuerRef.name: the Issuer whose authority the services trust" }}
    {{- end }}
    {{- toYaml $internal.certManager.issuerRef | nindent 4 }}
{{- end -}}
{{- end -}}

{{/*
"true" where something else than the chart sets the replicas. One without any stays so, unless it follows the queue: no
pod's CPU could bring it back, and an HPA on CPU with no replicas at least is refused.
*/}}
{{- define "soundstage.scaled" -}}
{{- $values := include "soundstage.values" . | fromYaml -}}
{{- $least := ternary 0 1 (has .component (list "denoiser" "gateway-worker")) -}}
{{- $may := and (ge (int $values.replicas) $least) (gt (int $values.maxReplicas) (int $values.replicas)) -}}
{{- if and (ne .root.Values.autoscaling.mode "none") $may -}}true{{- end -}}
{{- end -}}

{{/* HPA on CPU: for what is short beside denoising. */}}
{{- define "soundstage.cpuAutoscaler" -}}
{{- $values := include "soundstage.values" . | fromYaml -}}
{{- if include "soundstage.scaled" . -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "soundstage.metadata" . | nindent 2 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ include "soundstage.name" . }}}
  minReplicas: {{ $values.replicas }}
  maxReplicas: {{ $values.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target: {type: Utilization, averageUtilization: {{ $values.targetCpuPercent }}}
  behavior:
    {{- include "soundstage.behavior" .root | nindent 4 }}
{{- end -}}
{{- end -}}

{{- define "soundstage.behavior" -}}
{{- $queue := .Values.autoscaling.queue -}}
scaleUp:
  stabilizationWindowSeconds: {{ $queue.scaleUp.stabilizationSeconds }}
  selectPolicy: Max
  policies:
    - {type: Percent, value: {{ $queue.scaleUp.percent }}, periodSeconds: {{ $queue.scaleUp.periodSeconds }}}
    - {type: Pods, value: {{ $queue.scaleUp.pods }}, periodSeconds: {{ $queue.scaleUp.periodSeconds }}}
scaleDown:
  stabilizationWindowSeconds: {{ $queue.scaleDown.stabilizationSeconds }}
  policies:
    - {type: Percent, value: {{ $queue.scaleDown.percent }}, periodSeconds: {{ $queue.scaleDown.periodSeconds }}}
{{- end -}}

