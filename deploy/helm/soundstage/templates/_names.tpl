{{/* Names and labels. Arguments of most helpers: root (the top context), component ("gateway-api", "encoder", …). */}}

{{- define "soundstage.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- $full = default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $full) -}}
{{- fail (printf "%s cannot begin the names of Services, which have no dots and begin with a letter: set fullnameOverride" $full) -}}
{{- end -}}
{{- $full -}}
{{- end -}}

{{- define "soundstage.name" -}}
{{- $name := printf "%s-%s" (include "soundstage.fullname" .root) .component -}}
{{- if gt (len $name) 63 -}}
{{- fail (printf "%s is longer than the 63 characters of a Service's name: set a shorter fullnameOverride" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* host:port of a component's gRPC, by the name that its certificate has. */}}
{{- define "soundstage.address" -}}
{{- printf "%s.%s.svc:50051" (include "soundstage.name" .) .root.Release.Namespace -}}
{{- end -}}

{{/* What selects pods; never to be changed, since a Deployment cannot. */}}
{{- define "soundstage.selector" -}}
app.kubernetes.io/name: soundstage
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "soundstage.labels" -}}
{{ include "soundstage.selector" . }}
app.kubernetes.io/part-of: soundstage
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "soundstage.metadata" -}}
name: {{ include "soundstage.name" . }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "soundstage.labels" . | nindent 2 }}
{{- end -}}

{{/* A component's values. */}}
{{- define "soundstage.values" -}}
{{- index .root.Values (.component | camelcase | untitle) | toYaml -}}
{{- end -}}

{{/* A component's service, and so its image and its settings' prefix. */}}
{{- define "soundstage.service" -}}
{{- ternary "gateway" .component (hasPrefix "gateway-" .component) -}}
{{- end -}}

{{- define "soundstage.image" -}}
{{- $image := .root.Values.image -}}
{{- $tag := default .root.Chart.AppVersion $image.tag -}}
{{- $path := printf "%s/%s:%s" $image.repository (include "soundstage.service" .) $tag -}}
{{- ternary (printf "%s/%s" $image.registry $path) $path (ne $image.registry "") -}}
{{- end -}}

{{/* Ends the rendering when a kind is not there, saying what to do. Arguments: root, api, wanted, instead. */}}
{{- define "soundstage.needs" -}}
{{- if not (.root.Capabilities.APIVersions.Has .api) -}}
{{- fail (printf "%s needs %s, which this cluster does not have: %s. Without a cluster: helm template --api-versions %s" .wanted .api .instead .api) -}}
{{- end -}}
{{- end -}}
