{{- define "osai.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "osai.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "osai.labels" -}}
{{ include "osai.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Of (list context wants-a-gpu). */}}
{{- define "osai.image" -}}
{{- $root := index . 0 -}}
{{- $tag := printf "%s%s" $root.Chart.AppVersion (ternary "-cuda" "" (index . 1)) -}}
{{ $root.Values.image.repository }}:{{ $root.Values.image.tag | default $tag }}
{{- end -}}

{{- define "osai.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "osai.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "osai.mounts" -}}
- name: state
  mountPath: /var/lib/osai
- name: tmp
  mountPath: /tmp
{{- if .Values.coordinator.trustConfigMap }}
- name: trust
  mountPath: /etc/osai/trust
  readOnly: true
{{- end }}
{{- if .Values.coordinator.modelsClaim }}
- name: models
  mountPath: /models
  readOnly: true
{{- end }}
{{- end -}}

{{- define "osai.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 256Mi
{{- with .Values.coordinator.trustConfigMap }}
- name: trust
  configMap:
    name: {{ . }}
{{- end }}
{{- with .Values.coordinator.modelsClaim }}
- name: models
  persistentVolumeClaim:
    claimName: {{ . }}
    readOnly: true
{{- end }}
{{- end -}}

{{/* --trust for each key of the mounted folder: a shell's words. */}}
{{- define "osai.trust" -}}
{{- if .Values.coordinator.trustConfigMap -}}
for key in /etc/osai/trust/*; do set -- "$@" --trust "$key"; done
{{- end -}}
{{- end -}}

{{- define "osai.env" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}
